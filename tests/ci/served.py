"""What tests of one forge share: a small stack whose forge is a stand-in, and how its tasks are asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.stacks import SmallStack

TOKEN = "good-token-of-tests"
WORKFLOW = "on: {push: , workflow_dispatch: }\njobs: {test: {runs-on: dev, steps: [{run: make}]}}\n"


def stack_for(folder: Path, address: str) -> SmallStack:
    stack = SmallStack.create(folder / "checkout", port=1)
    section = f"ci: {{server: '{address}', repository: team/app, secrets: [SOPS_AGE_KEY, OTHER_TOKEN]}}\n"
    stack.write("stack.yaml", (stack.folder / "stack.yaml").read_text() + section)
    stack.write(".gitea/workflows/ci-cd-dual.yml", WORKFLOW)
    return stack


def ask(stack: SmallStack, *words: str, token: str = TOKEN, **extra: str) -> Any:
    return stack.json(*words, FORGEJO_TOKEN=token, **extra)


def runner(state: str, label: str = "dev") -> dict[str, Any]:
    return {"id": 1, "uuid": "x", "name": "first", "status": state, "labels": [label]}
