"""The demo without its page: files, limits, the store, what the browser is sent, what the heads find."""

from __future__ import annotations

import base64
import json
import shutil
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

pytest.importorskip("gradio")

import longformer_plus
from longformer_plus.benchmark import Point
from longformer_plus.benchmark_workloads import Workload
from longformer_plus.demo import checkpoints, compare, documents, reader, tasks
from longformer_plus.demo.checkpoints import TASKS, Checkpoint, Checkpoints, load
from longformer_plus.demo.documents import InputError, check_text, read_upload, sample
from longformer_plus.demo.explorer import POLICIES, Explored, Explorer
from longformer_plus.demo.store import VisitorStore
from longformer_plus.demo.views import weights_view
from longformer_plus.inspection import why_not_forward

TEXT = "The captain looked at the sea. The wind had blown for three days! <script>alert(1)</script> Who knows?\n" * 4


@pytest.fixture
def explorer(task_checkpoints: dict[str, Path]) -> Explorer:
    return Explorer(Checkpoint(str(task_checkpoints["fill-mask"])), VisitorStore[Explored](10_000_000))


# The store


def test_visitors_are_kept_apart_and_freed() -> None:
    store = VisitorStore[str](100)
    store.put("a", "document of a", 10)
    store.put("b", "document of b", 20)
    assert store.get("a") == "document of a"
    assert store.get("b") == "document of b"
    assert store.num_bytes == 30
    store.free("a")
    assert store.get("a") is None
    assert (len(store), store.num_bytes) == (1, 20)


def test_what_was_not_used_for_longest_gives_way() -> None:
    store = VisitorStore[str](100)
    store.put("a", "a", 40)
    store.put("b", "b", 40)
    store.get("a")
    store.put("c", "c", 40)
    assert [store.get(name) for name in "abc"] == ["a", None, "c"]
    store.put("a", "a again", 60)
    assert (store.get("a"), store.num_bytes) == ("a again", 100)
    with pytest.raises(ValueError, match="101 bytes"):
        store.put("d", "d", 101)


def test_what_is_old_goes() -> None:
    now = [0.0]
    store = VisitorStore[str](100, max_age=60, clock=lambda: now[0])
    store.put("a", "a", 1)
    now[0] = 50.0
    assert store.get("a") == "a"
    now[0] = 111.0
    assert store.get("a") is None
    assert len(store) == 0


def test_the_store_holds_its_cap_under_many_threads() -> None:
    store = VisitorStore[int](1000)

    def visit(number: int) -> None:
        for turn in range(200):
            store.put(str(number), number, 100)
            assert store.get(str(number)) in (number, None)
            assert store.num_bytes <= 1000
            if turn % 7 == 0:
                store.free(str(number))

    threads = [threading.Thread(target=visit, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.num_bytes == 100 * len(store) <= 1000


# Texts and files


def test_texts_are_checked() -> None:
    assert check_text("a\r\nb\0") == "a\nb"
    for empty in (None, "", " \n"):
        with pytest.raises(InputError, match="empty"):
            check_text(empty)
    with pytest.raises(InputError, match="5,000,000 characters"):
        check_text("x" * 5_000_000)


def _docx(path: Path) -> None:
    docx = pytest.importorskip("docx")
    document = docx.Document()
    document.add_paragraph("A paragraph, then a table.")
    document.add_table(1, 2).rows[0].cells[1].text = "In a cell."
    document.add_paragraph("The end.")
    document.save(str(path))


def _pdf(path: Path) -> None:
    """The smallest PDF that says something."""
    stream = b"BT /F1 12 Tf 20 100 Td (Words in a PDF.) Tj ET"
    parts = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 200] /Contents 4 0 R "
        b"/Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
    ]
    data = b"%PDF-1.4\n"
    places = []
    for number, part in enumerate(parts, start=1):
        places.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, part)
    start = len(data)
    data += b"xref\n0 5\n0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % place for place in places)
    path.write_bytes(data + b"trailer << /Size 5 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % start)


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "plain.txt": (lambda path: path.write_text("Ünïcode, plainly.", encoding="utf-8"), "Ünïcode, plainly."),
    "marked.MD": (lambda path: path.write_text("\ufeffA *mark*.", encoding="utf-8"), "A *mark*."),
    "wide.txt": (lambda path: path.write_text("Wide.", encoding="utf-16"), "Wide."),
    "word.docx": (_docx, "A paragraph, then a table.\n\tIn a cell.\nThe end."),
    "page.pdf": (_pdf, "Words in a PDF."),
}


@pytest.mark.parametrize("name", FILES)
def test_files_are_read_and_deleted(name: str, tmp_path: Path) -> None:
    if name.endswith("pdf"):
        pytest.importorskip("pypdf")
    make, expected = FILES[name]
    path = tmp_path / name
    make(path)
    assert read_upload(path).strip() == expected
    assert not path.exists()


def _bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", b"0" * (reader.MOST_UNPACKED_BYTES + 1))


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "broken.pdf": (lambda path: path.write_bytes(b"%PDF-1.4\nnothing of the kind"), "broken"),
    "broken.docx": (lambda path: path.write_bytes(b"PK\3\4 cut off"), "broken"),
    "bomb.docx": (_bomb, "unpacks to"),
    "bytes.txt": (lambda path: path.write_bytes(b"\x89\xff\xfe\x00"), "UTF-8"),
    "zeros.txt": (lambda path: path.write_bytes(b"a\0b"), "no text"),
    "empty.txt": (lambda path: path.write_bytes(b""), "empty"),
    "program.exe": (lambda path: path.write_bytes(b"MZ"), "type cannot be read"),
    "large.txt": (lambda path: path.write_bytes(b"a" * (documents.MOST_UPLOAD_BYTES + 1)), "10,000,001 bytes"),
    "long.txt": (lambda path: path.write_bytes(b"a" * 5_000_000), "5,000,000 characters"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_get_a_message_and_are_deleted(name: str, tmp_path: Path) -> None:
    make, message = BROKEN[name]
    path = tmp_path / name
    make(path)
    with pytest.raises(InputError, match=message):
        read_upload(path)
    assert not path.exists()


def test_a_file_that_takes_too_long_gets_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "SECONDS", -9.99)
    path = tmp_path / "slow.txt"
    path.write_text("slow")
    with pytest.raises(InputError, match="too long to read"):
        read_upload(path)


def test_every_sample_is_there() -> None:
    for name in documents.SAMPLES:
        assert len(check_text(sample(name))) > 4000
    with pytest.raises(InputError, match="no such sample"):
        sample("../../etc/passwd")


# Explore


def positions(packed: str) -> list[int]:
    data = base64.b64decode(packed)
    return [int.from_bytes(data[place : place + 4], "little") for place in range(0, len(data), 4)]


def test_weights_travel_as_bytes() -> None:
    weights = torch.tensor([0.0, 0.5, 0.01, 0.2])
    view = weights_view(weights)
    back = [view["largest"] * (code / 255) ** 2 for code in base64.b64decode(view["codes"])]
    assert back == pytest.approx(weights.tolist(), abs=0.5 / 255 * 2)


def test_a_document_is_explored(explorer: Explorer) -> None:
    view = explorer.analyse("a", TEXT, "cls")
    json.dumps(view)
    document = view["document"]
    assert document["text"] == TEXT[: positions(document["stops"])[-2]]
    assert document["globals"] == [0]
    assert document["names"]["0"] == "<s>"
    assert view["band"]["width"] == document["numTokens"]
    answer = explorer.answer("a", {"ask": "links", "token": 9, "layer": 1, "head": 2, "direction": "from"})
    kept = explorer.store.get("a")
    assert kept is not None
    expected = kept.document.maps.links(9, "from", 1, 2)
    assert answer["links"]["strongest"][0][:2] == [expected.strongest[0].position, expected.strongest[0].weight]
    assert len(base64.b64decode(answer["links"]["weights"]["codes"])) == document["numTokens"]


def test_every_question_has_an_answer(explorer: Explorer) -> None:
    explorer.analyse("a", TEXT)
    for ask in ("links", "layer", "rollout", "gradient", "global", "page"):
        for layer, head in ((-1, -1), (0, 1)):
            json.dumps(explorer.answer("a", {"ask": ask, "token": 5, "layer": layer, "head": head}))


def test_pictures_are_as_fine_as_the_page_can_show(explorer: Explorer) -> None:
    explorer.analyse("a", TEXT, "cls")
    for layer in (-1, 0):
        view = explorer.answer("a", {"ask": "layer", "token": 5, "layer": layer, "columns": 30, "rows": 6})
        picture, tokens = view["band"], len(base64.b64decode(view["received"]["codes"]))
        assert picture["width"] == -(-tokens // picture["tokensPerColumn"])
        assert 15 < picture["width"] <= 30
        assert 3 < picture["height"] <= 6
        assert len(base64.b64decode(picture["shades"])) == picture["width"] * picture["height"]
        whole = explorer.answer("a", {"ask": "layer", "token": 5, "layer": layer})["band"]
        assert whole["width"] == tokens
        assert whole["largest"] == picture["largest"]


def test_a_click_makes_a_token_global_and_local_again(explorer: Explorer) -> None:
    explorer.analyse("a", TEXT, "none")
    assert explorer.answer("a", {"ask": "global", "token": 7})["document"]["globals"] == [7]
    view = explorer.answer("a", {"ask": "global", "token": 3})
    assert view["document"]["globals"] == [3, 7]
    assert view["links"]["token"] == 3
    assert view["fromGlobal"]["height"] == 2
    assert explorer.answer("a", {"ask": "global", "token": 7})["document"]["globals"] == [3]


def test_policies_choose_tokens(explorer: Explorer) -> None:
    chosen = {}
    for name in POLICIES:
        view = explorer.analyse("a", TEXT, explorer.policy(name))["document"]
        starts, stops = positions(view["starts"]), positions(view["stops"])
        chosen[name] = [view["text"][starts[place] : stops[place]] for place in view["globals"]]
    assert chosen["first token"] == [""]
    assert chosen["none"] == []
    assert set(chosen["full stops"]) == {".", "!", "?"}
    with pytest.raises(InputError, match="no such choice"):
        explorer.policy("all")


def test_too_many_global_tokens_are_refused_before_the_model_runs(
    explorer: Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longformer_plus.demo.explorer.MOST_GLOBAL_TOKENS", 10)
    monkeypatch.setattr("longformer_plus.demo.explorer.attention_maps", lambda *_, **__: pytest.fail("it ran"))
    with pytest.raises(InputError, match=r"99 tokens would attend globally; at most 10"):
        explorer.analyse("a", "a. " * 99, explorer.policy("full stops"))


def test_long_documents_are_cut_with_a_word_about_it(explorer: Explorer) -> None:
    view = explorer.analyse("a", TEXT * 5)
    assert view["document"]["numTokens"] == 200
    assert "first 200 tokens" in view["cut"]
    assert explorer.analyse("a", "Short.")["cut"] == ""


@pytest.mark.parametrize(
    "question",
    [
        {},
        {"ask": "passwords"},
        {"ask": "links", "token": 10**9},
        {"ask": "links", "token": -1},
        {"ask": "links", "token": "<b>"},
        {"ask": "links", "token": 1, "layer": 77},
        {"ask": "links", "token": 1, "head": [1]},
        {"ask": "links", "token": 1, "direction": "up"},
        {"ask": "layer", "token": 1, "columns": 0},
        {"ask": "layer", "token": 1, "rows": "many"},
    ],
)
def test_questions_that_make_no_sense_are_refused(explorer: Explorer, question: dict) -> None:
    explorer.analyse("a", TEXT)
    with pytest.raises(InputError, match="Reload"):
        explorer.answer("a", question)


def test_visitors_see_their_own_document(explorer: Explorer) -> None:
    explorer.analyse("a", "A short text of a.")
    explorer.analyse("b", "Another text, which is that of b, and longer.")
    a, b = (explorer.answer(name, {"ask": "page"})["page"] for name in "ab")
    assert "text of a" in a
    assert "that of b" not in a
    assert "that of b" in b
    with pytest.raises(InputError, match="no longer held"):
        explorer.answer("c", {"ask": "links", "token": 1})


def test_a_document_too_large_for_the_store_gets_a_message(explorer: Explorer) -> None:
    explorer.store = VisitorStore(100)
    with pytest.raises(InputError, match="more memory than there is"):
        explorer.analyse("a", TEXT)


# The heads


def test_answers_lie_in_the_document(task_checkpoints: dict[str, Path]) -> None:
    checkpoint = Checkpoint(str(task_checkpoints["question-answering"]))
    view = tasks.ask(checkpoint, "Who looked at the sea?", TEXT)
    json.dumps(view)
    assert view["text"] == TEXT[: len(view["text"])]
    assert [mark["score"] for mark in view["marks"]] == sorted((mark["score"] for mark in view["marks"]), reverse=True)
    assert all(0 <= mark["first"] <= mark["last"] < view["numTokens"] for mark in view["marks"])
    assert len(base64.b64decode(view["shades"][0]["codes"])) == view["numTokens"]
    with pytest.raises(InputError, match="question is empty"):
        tasks.ask(checkpoint, " ", TEXT)


def test_masks_are_filled_with_the_likeliest_words(task_checkpoints: dict[str, Path]) -> None:
    checkpoint = Checkpoint(str(task_checkpoints["fill-mask"]))
    text = "The <mask> looked at the <mask>."
    view = tasks.fill(checkpoint, text)
    ids = checkpoint.tokenizer(text, return_tensors="pt")["input_ids"]
    mask = torch.zeros_like(ids)
    mask[0, 0] = 1
    with checkpoint.running() as model, torch.no_grad():
        scores = model(ids, global_attention_mask=mask).logits[0].softmax(-1)
    for one in view["marks"]:
        value, index = scores[one["first"]].max(-1)
        assert one["score"] == pytest.approx(float(value), rel=1e-3)
        assert one["replacement"] == checkpoint.tokenizer.decode([int(index)]).strip()
    with pytest.raises(InputError, match="Write <mask>"):
        tasks.fill(checkpoint, "No mask.")


def test_documents_are_classified_and_tagged(task_checkpoints: dict[str, Path]) -> None:
    checkpoint = Checkpoint(str(task_checkpoints["text-classification"]))
    view = tasks.classify(checkpoint, TEXT)
    assert sum(score for _, score in view["results"]) == pytest.approx(1, abs=1e-5)
    view = tasks.tag(Checkpoint(str(task_checkpoints["token-classification"])), TEXT)
    json.dumps(view)
    assert {mark["label"] for mark in view["marks"]} <= {"LABEL_0", "LABEL_1"}
    assert [mark["first"] for mark in view["marks"]] == sorted(mark["first"] for mark in view["marks"])
    assert view["marks"][-1]["last"] < view["numTokens"]


def test_documents_longer_than_the_model_are_shown_whole(task_checkpoints: dict[str, Path]) -> None:
    checkpoint = Checkpoint(str(task_checkpoints["question-answering"]))
    view = tasks.ask(checkpoint, "Who?", TEXT * 5)
    assert view["text"] == (TEXT * 5).rstrip("\n") or view["text"] == TEXT * 5
    assert "The attention is that on the first" in view["note"]
    shade = base64.b64decode(view["shades"][0]["codes"])
    assert len(shade) == view["numTokens"] > 200
    assert not any(shade[200:])
    assert any(shade[150:190])


# Checkpoints and the command


def test_checkpoints_know_their_task(task_checkpoints: dict[str, Path]) -> None:
    found = Checkpoints.find(
        str(task_checkpoints["fill-mask"]),
        question_answering=str(task_checkpoints["question-answering"]),
        text_classification=None,
    )
    assert {task: checkpoint.name for task, checkpoint in found.by_task.items()} == {
        task: str(task_checkpoints[task]) for task in ("fill-mask", "question-answering")
    }
    with pytest.raises(ValueError, match="no head for text-classification: it is a checkpoint for fill-mask"):
        Checkpoints.find(str(task_checkpoints["fill-mask"]), text_classification=str(task_checkpoints["fill-mask"]))


@pytest.fixture
def shipped(task_checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """What a package could come with: a checkpoint, two adapters on it, and a whole checkpoint for a third task."""
    peft = pytest.importorskip("peft")
    base = shutil.copytree(task_checkpoints["fill-mask"], tmp_path / "base")
    folders = {"text-classification": task_checkpoints["text-classification"]}
    for task, task_type in (("question-answering", "QUESTION_ANS"), ("token-classification", "TOKEN_CLS")):
        model = TASKS[task].from_pretrained(base, num_labels=2 if task_type == "QUESTION_ANS" else 5)
        adapted = peft.get_peft_model(model, peft.LoraConfig(task_type=task_type, init_lora_weights=False))
        adapted.save_pretrained(tmp_path / task)
        folders[task] = tmp_path / task
    folders["fill-mask"] = base

    def shipped_checkpoint(task: str = "fill-mask") -> Path:
        if task not in folders:
            raise ValueError(f"{task} does not ship: {', '.join(folders)} do.")
        return folders[task]

    monkeypatch.setattr(checkpoints, "shipped_checkpoint", shipped_checkpoint)
    return folders


def test_what_comes_with_the_package_serves_every_tab(shipped: dict[str, Path]) -> None:
    found = Checkpoints.find(None)
    assert found.explored.name == str(shipped["fill-mask"])
    assert set(found.by_task) == set(TASKS)
    assert found.by_task["fill-mask"] is found.explored
    assert len(tasks.ask(found.by_task["question-answering"], "Who?", TEXT)["marks"]) == 5
    labels = {mark["label"] for mark in tasks.tag(found.by_task["token-classification"], TEXT)["marks"]}
    assert labels <= {f"LABEL_{index}" for index in range(5)}
    assert len(tasks.classify(found.by_task["text-classification"], TEXT)["results"]) == 2
    del shipped["token-classification"]
    assert set(Checkpoints.find(None).by_task) == set(TASKS) - {"token-classification"}


def test_an_adapter_computes_what_peft_computes(shipped: dict[str, Path]) -> None:
    peft = pytest.importorskip("peft")
    checkpoint = load(str(shipped["token-classification"]))
    base = TASKS["token-classification"].from_pretrained(shipped["fill-mask"], num_labels=5)
    adapted = peft.PeftModel.from_pretrained(base, shipped["token-classification"]).eval()
    ids = checkpoint.tokenizer(TEXT, truncation=True, max_length=100, return_tensors="pt")["input_ids"]
    with checkpoint.running() as model, torch.no_grad():
        torch.testing.assert_close(model(ids).logits, adapted(ids).logits, atol=1e-4, rtol=1e-4)


def test_classes_of_an_adapter_are_named_by_its_configuration(shipped: dict[str, Path]) -> None:
    adapters = pytest.importorskip("longformer_plus.integrations.adapters")
    folder = shipped["token-classification"]
    config = longformer_plus.LongformerPlusConfig.from_pretrained(shipped["fill-mask"])
    config.id2label = {index: f"CLASS{index}" for index in range(5)}
    config.to_json_file(folder / adapters.MODEL_CONFIG, use_diff=False)
    with load(str(folder)).running() as model:
        assert model.config.id2label[4] == "CLASS4"
        assert model.classifier.out_features == 5


def test_checkpoints_of_other_models_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="checkpoint of 'bert'"):
        Checkpoint(str(tmp_path))


# Compare


def test_measuring_gives_a_point_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    def measure_one(name: str, length: int, with_memory: bool) -> Point:
        measured.append((length, name))
        model = "transformers" if name == "transformers" else "longformer_plus"
        failures = {model: "out of memory"} if (length, name) == (512, "eager") else {}
        seconds = {} if failures else {model: [3.0, 1.0, 2.0]}
        return Point(Workload(length, "forward"), length, seconds, {model: 2**21} if with_memory else {}, failures)

    monkeypatch.setattr(compare, "_measure_one", measure_one)
    views = list(compare.measure(["eager", "transformers"], 512, with_memory=True))
    assert measured == [(256, "eager"), (256, "transformers"), (512, "eager"), (512, "transformers")]
    assert views[-1]["share"] == 1.0
    assert views[-1]["curves"]["transformers"] == [[256, 2.0, 2.0], [512, 2.0, 2.0]]
    assert views[-1]["curves"]["eager"] == [[256, 2.0, 2.0], [512, None, 2.0]]
    assert views[-1]["notes"] == ["eager failed at 512 tokens: out of memory"]


def test_flex_attention_is_left_out_where_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    point = Point(Workload(256, "forward"), 256, {"longformer_plus": [1.0]}, {}, {})
    monkeypatch.setattr(compare, "_measure_one", lambda *_: point)
    assert "flex_attention" in compare.contenders()
    for reason, measured in ((None, {"sdpa", "flex_attention"}), ("there is no C++ compiler", {"sdpa"})):
        monkeypatch.setattr(compare, "why_not_forward", lambda _, reason=reason: reason)
        views = list(compare.measure(["sdpa", "flex_attention"], 256, with_memory=False))
        assert "compiling" in views[0]["doing"]
        assert set(views[-1]["curves"]) == measured
        assert any("no C++ compiler" in note for note in views[-1]["notes"]) == (reason is not None)


def test_a_backend_that_cannot_be_compiled_is_told_by_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.exc import TorchDynamoException

    from longformer_plus.attention import flex

    def uncompilable(*rows: object) -> None:
        raise TorchDynamoException("no compiler")

    assert why_not_forward("sdpa") is None
    assert "no_such" in str(why_not_forward("no_such"))
    monkeypatch.setattr(flex, "_kernels", {})
    monkeypatch.setattr(torch, "compile", lambda function, **options: uncompilable)
    assert why_not_forward("flex_attention") == "it does not compile here (no compiler)"


def test_one_visitor_measures_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "_measure_one", lambda *_: pytest.fail("measured"))
    first = compare.measure(["sdpa"], 256, with_memory=False)
    next(first)
    with pytest.raises(InputError, match="Another visitor"):
        next(compare.measure(["sdpa"], 256, with_memory=False))
    first.close()  # as when it is stopped
    second = compare.measure(["sdpa"], 256, with_memory=False)
    assert next(second)["share"] == 0
    second.close()
    with pytest.raises(InputError, match="at least one"):
        next(compare.measure([], 256, with_memory=False))


def test_a_backend_is_measured() -> None:
    point = compare._measure_one("sdpa", 64, with_memory=False)
    assert point.median("longformer_plus")
    assert not point.failures
