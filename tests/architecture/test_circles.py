"""No module imports, by whatever way, a module that imports it."""

from __future__ import annotations

from graphlib import TopologicalSorter

import grimp


def test_imports_have_no_circle() -> None:
    """Those in functions and for types alone count too; the sorter's error names the modules of a circle."""
    graph = grimp.build_graph("conche", cache_dir=None, exclude_type_checking_imports=False)
    imported = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}

    TopologicalSorter(imported).prepare()

    assert len(imported) > 300
