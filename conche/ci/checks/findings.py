"""Complaints: what the checks of a workflow report."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["RULES", "Complaint"]

RULES = {
    "unreadable": "the file is not YAML or cannot be read: on the server, a failed run without jobs or a reason",
    "needs-unknown": "a job needs a job that the workflow does not have",
    "needs-cycle": "jobs need each other in a circle, so none of them starts",
    "needs-missing": "an expression reads needs.JOB, but the job does not need JOB: the value is empty",
    "output-unknown": "no such output of the job, or no earlier step with that id: the value is empty",
    "label-unknown": "no runner has the label: the job would wait for ever",
    "context-unknown": "a context, a property of github or a function that some servers lack",
    "expression-in-run": "${{ }} inside run: its text becomes part of the script; pass it through env",
    "action-retired": "the action's version runs on a Node.js that is retired",
    "branch-unknown": "a job deploys from a branch of no environment in stack.yaml, or of another one",
    "session-unknown": "noxfile.py has no such session",
    "task-unknown": "Invoke has no such task, or the task has no such option",
    "environment-unknown": "--env names an environment that stack.yaml does not have",
    "secret-undeclared": "ci.secrets in stack.yaml does not list the secret, so it never reaches the server",
    "secret-too-wide": "a secret in the environment of a job or workflow: every step and action could read it",
    "deploy-without-needs": "a job deploys but needs no other job: nothing is tested first",
    "schema": "the JSON Schema of workflow files does not allow it",
    "act": "act, which runs workflows, rejects it",
    "zizmor": "zizmor reports it as unsafe",
    "shellcheck": "shellcheck finds a fault in the script",
}
"""Our own rules, and the tools whose findings are passed on, each with its meaning."""


@dataclass(frozen=True, order=True)
class Complaint:
    """One thing wrong with a workflow.

    Attributes:
        line: from 1.
        rule: one of `RULES`.
    """

    file: str
    line: int
    rule: str
    message: str
