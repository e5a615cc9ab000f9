"""benchmarks/gpu_facts.py: a crash or hang costs one answer, and all questions work on a device."""

import copy
import ctypes
import importlib
import json
import math
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def facts(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")  # child processes inherit it
    return importlib.import_module("gpu_facts")


def run(tmp_path, *options: str, **environment: str) -> tuple[dict, dict]:
    """The printed and the written results of a run."""
    out = tmp_path / "facts.json"
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "gpu_facts.py", "--out", out, *options],
        capture_output=True, text=True, env=os.environ | environment, timeout=400)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), json.loads(out.read_text())


def test_without_a_device_every_answer_is_no_device(tmp_path, facts):
    printed, written = run(tmp_path, CUDA_VISIBLE_DEVICES="")
    assert printed["device"] is None
    answers = printed["answers"]
    assert [answer["question"] for answer in answers] == [q.text for q in facts.QUESTIONS]
    assert {answer["kind"] for answer in answers} == {"no device"}
    assert all(answer["error"].startswith("no device: ") for answer in answers)
    assert written == printed


@pytest.mark.gpu
def test_on_a_device_every_question_has_an_answer_unless_a_library_is_missing(tmp_path, facts):
    printed, written = run(tmp_path, "--quick")
    assert printed["device"] == written["device"] == device_name()
    answers = {answer["question"]: answer for answer in written["answers"]}
    assert list(answers) == [question.text for question in facts.QUESTIONS]
    lacking = facts.HOSTCUDA_LACKS if "hostcuda" in printed["device"] else ()
    for question in facts.QUESTIONS:
        answer = answers[question.text]
        if question.needs in lacking:
            assert answer["kind"] == "not on this device"
        elif question.needs != "PyTorch":  # not installed for tests
            assert "answer" in answer, answer
    for name in CERTAIN:
        assert answers[name]["answer"] is True


CERTAIN = (
    "dtypes promote as in NumPy",
    "our Philox kernel gives the published numbers",
    "sort in a graph",
    "a graph with its own pool and other arrays stay right",
)


def device_name() -> str:
    cupy = importlib.import_module("cupy")
    return cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()


def test_a_crash_costs_one_answer(facts):
    questions = [
        facts.Question(1, "crashes", ctypes.string_at, (0,), needs=""),
        facts.Question(2, "leaves", os._exit, (3,), needs=""),
        facts.Question(3, "raises", json.loads, ("{",), needs=""),
        facts.Question(4, "answers", math.frexp, (8.0,), needs=""),
    ]
    seen = []
    report = lambda answers: seen.append(len(answers))
    answers = facts.run_all(questions, limit=60, report=report)
    assert seen == [1, 2, 3, 4]
    crashed, left, raised, answered = answers
    assert crashed["kind"] == "crash" and "Segmentation fault" in crashed["detail"]
    assert left["kind"] == "crash" and "exit code 3" in left["error"]
    assert raised["kind"] == "exception" and raised["error"].startswith("JSONDecodeError")
    del answered["seconds"]
    assert answered == {"point": 4, "question": "answers", "answer": 0.5, "detail": 4}


def test_a_hang_costs_its_limit_and_the_whole_run_its_budget(facts):
    hangs = [facts.Question(1, "hangs", time.sleep, (600,), needs="")] * 4
    answers = facts.run_all(hangs, limit=2, budget=4.5)
    assert [answer["kind"] for answer in answers] == ["timeout"] * 4
    assert all(2 <= answer["seconds"] < 15 for answer in answers[:2])
    assert "whole run" in answers[-1]["error"] and answers[-1]["seconds"] < 1


def test_answers_are_plain_json(facts):
    values = [np.float32(1 / 3), np.nan, np.True_], {"array": np.arange(2), "function": len}
    reply = facts.ask(facts.Question(1, "several types", copy.copy, (values,), needs=""), 30)
    assert reply == {
        "answer": [0.33333, "NaN", True],
        "detail": {"array": [0, 1], "function": str(len)},
    }


def test_questions_can_be_pickled(facts):
    assert pickle.loads(pickle.dumps(facts.QUESTIONS)) == facts.QUESTIONS
    assert {question.point for question in facts.QUESTIONS} == {0, 1, 2, 3, 4, 5, 6, 9}
