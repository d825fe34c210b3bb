"""Complaints: what the checks of a workflow report."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["RULES", "Complaint"]

RULES = {
    "unreadable": "the file is no YAML, or cannot be read: on the server a failed run without jobs or a reason",
    "needs-unknown": "a job needs a job that the workflow does not have",
    "needs-cycle": "jobs need each other in a circle, so none of them starts",
    "needs-missing": "an expression reads needs.JOB, and the job does not need JOB: it reads as empty text",
    "output-unknown": "an output that the job, or a step id that the steps before, do not have: it reads as empty text",
    "label-unknown": "no runner carries the label: the job would wait for ever",
    "context-unknown": "a context, a property of github or a function that there is not on every server",
    "expression-in-run": "${{ }} inside run: its text becomes part of the script; hand it over in env",
    "action-retired": "a version of an action whose Node.js is retired",
    "branch-unknown": "a job deploys from a branch that no environment in stack.yaml has, or to another one's",
    "session-unknown": "noxfile.py has no such session",
    "task-unknown": "Invoke has no such task, or the task has no such option",
    "environment-unknown": "--env names an environment that stack.yaml does not have",
    "secret-undeclared": "ci.secrets in stack.yaml does not have the secret, so nobody puts it on the server",
    "secret-too-wide": "a secret in the environment of a job or workflow: every step and action could read it",
    "deploy-without-needs": "a job deploys and needs no other job: nothing was tested before",
    "schema": "the JSON Schema of workflow files does not allow it",
    "act": "act, which runs workflows, refuses it",
    "zizmor": "zizmor finds it unsafe",
    "shellcheck": "shellcheck finds the shell text faulty",
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
