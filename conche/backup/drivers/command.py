"""command: any program in a container that dumps to stdout and restores from stdin, such as pg_dump."""

from __future__ import annotations

from conche.backup import running
from conche.backup.archive import Archive, compressing
from conche.backup.drivers import Dumping
from conche.backup.entries import Reading
from conche.backup.loading import Examined, complaints
from conche.backup.manifest import ComponentRecord
from conche.backup.site import Site
from conche.engine import containers, programs, task_containers
from conche.engine.containers import Container
from conche.errors import NotFound
from conche.stack import Component

__all__ = ["dump", "dump_name", "serving"]


def dump(task: Dumping) -> ComponentRecord:
    """Store what the program writes to stdout; its exit code must be 0."""
    component = task.component
    container = serving(task.site, component)
    file = dump_name(task.name, component)
    seen = Examined()
    with compressing(task.folder / file) as compressor:
        with running.noted(task.site, component, container) as program:
            for block in programs.output(program.engine, container.id, component.dump, number=program.number):
                compressor.write(block)
                seen.feed(block)
        compressed, digest, pieces = compressor.finish()
    reading = Reading()
    if seen.size == 0:
        reading.leave_out(file, "is empty: the program wrote nothing", harmful=True)
    for problem in complaints(component.dump, component.restore) or [seen.problem(component.restore)]:
        if problem:
            reading.leave_out(file, f"cannot replace the current data: {problem}", harmful=True)
    made = task.artifact(file, Archive(compressed, digest, 0, seen.size, pieces))
    return task.record(artifacts=(made,), reading=reading, consistency=f"as {component.dump[0]} dumps it")


def dump_name(name: str, component: Component) -> str:
    """Return the name of the dump's file."""
    return f"{component.file or name + '.dump'}.gz"


def serving(site: Site, component: Component) -> Container:
    """Return the running container of a component's service.

    Raises:
        NotFound: there is none.
        Refused: on a swarm, it runs on another node.
    """
    assert component.environment is not None
    engine, project = site.engine(component), site.stack.project(component.environment)
    if site.stack.environments[component.environment].swarm:
        return task_containers.of_service(engine, project, str(component.service), "a dump or a restore")
    for one in containers.of_project(engine, project):
        if one.service == component.service and one.state == "running":
            return one
    raise NotFound(
        "service-not-running",
        f"{component.service} is not running in {component.environment}, so it cannot be dumped or restored.",
        looked_at=[f"project {project} on {engine.address}"],
        next_command=f"invoke env.up --env {component.environment}",
    )
