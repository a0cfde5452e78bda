import base64
import json
import re
import shutil
import time
from functools import partial
from html.parser import HTMLParser

import numpy as np
import pytest

import minidl as md
from minidl import functional as F, models, nn
from minidl.cli import main
from minidl.errors import ArgumentError, DtypeError, ShapeError
from minidl.viz.microscope import explain, record
from minidl.viz.microscope.page import KNOWN

try:
    from selenium import webdriver
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
except ImportError:
    webdriver = None
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
    webdriver is None or CHROMIUM is None or DRIVER is None,
    reason="needs selenium, Chromium and chromedriver, of which one is missing",
)
MODELS = [("mnist_cnn", 28, None), ("cifar_cnn", 32, 3), ("lenet5", 28, 5), ("resnet20", 32, None), ("resnet20", 64, 2)]


def image(name, size, seed=0):
    channels = models.MODELS[name].input_shape[0]
    return np.random.default_rng(seed).random((channels, size, size), dtype=np.float32)


class Elements(HTMLParser):
    """The script elements of a page, as a browser finds them, and the other elements' names."""

    def __init__(self, page):
        super().__init__()
        self.scripts, self.tags, self.inside = {}, [], None
        self.feed(page.html)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.inside = dict(attributes).get("id", "program") if tag == "script" else None
        if self.inside:
            assert self.inside not in self.scripts
            self.scripts[self.inside] = ""

    def handle_data(self, data):
        if self.inside:
            self.scripts[self.inside] += data

    def handle_endtag(self, tag):
        self.inside = None


def read_back(page):
    """(recording, function from a name of an array and its shape to its numbers) of a page."""
    scripts = Elements(page).scripts
    recording = json.loads(scripts["recording"])

    def array(name, shape):
        about, parts = recording["arrays"][name], []
        while f"{name}-{len(parts)}" in scripts:
            parts.append(np.frombuffer(base64.b64decode(scripts[f"{name}-{len(parts)}"]), about["dtype"]))
        assert all(part.size == about["chunk"] for part in parts[:-1])
        return np.concatenate(parts).reshape(shape)

    return recording, array


# ---------------------------------------------------------------- the numbers


@pytest.mark.parametrize(("name", "size", "label"), MODELS)
def test_stored_numbers_are_the_models(name, size, label):
    """Against hooks on the modules and on their outputs, which know nothing of the recording."""
    model = models.create(name, rng=0)
    rng = np.random.default_rng(1)
    for buffer in model.buffers():  # running statistics that do something
        if buffer.ndim:
            buffer.data = rng.uniform(0.5, 1.5, buffer.shape)
    x = image(name, size)
    page = explain(model, x, label=label)
    assert len(page.html) < 10e6
    recording, array = read_back(page)

    outputs, gradients = {}, {}

    def keep(path, module, inputs, output):
        outputs.setdefault(path, []).append(output)
        output.register_hook(partial(gradients.__setitem__, (path, len(outputs[path]) - 1)))

    leaves = {path: module for path, module in model.named_modules() if not list(module.children())}
    removes = [module.register_forward_hook(partial(keep, path)) for path, module in leaves.items()]
    inputs = md.Tensor(x[None], requires_grad=True)
    logits = model.eval()(inputs)
    target = logits[0, int(logits.numpy().argmax())] if label is None else md.cross_entropy(logits, np.array([label]))
    target.backward()
    for remove in removes:
        remove()

    values, compared = recording["values"], 0
    np.testing.assert_array_equal(array(values[0]["value"], x[None].shape), x[None])
    np.testing.assert_allclose(array(values[0]["gradient"], x[None].shape), inputs.grad.numpy(), rtol=1e-4, atol=1e-6)
    counts = {}
    for step in recording["steps"]:
        path = step["path"]
        if path not in leaves:
            continue
        number = counts[path] = counts.get(path, -1) + 1  # a ReLU may run twice
        entry = values[step["output"]]
        shape = tuple(entry["shape"])
        for slot, tensor in (("value", outputs[path][number]), ("gradient", gradients[path, number])):
            assert shape == tensor.shape
            if entry[slot] != "computed":
                np.testing.assert_allclose(array(entry[slot], shape), tensor.numpy(), rtol=1e-4, atol=2e-6)
                compared += 1
    assert compared >= 10
    parameters = dict(model.named_parameters())
    found = {c["name"]: c for c in recording["constants"]}
    assert {name for name, c in found.items() if c["kind"] == "parameter"} == set(parameters)
    for name, parameter in parameters.items():
        np.testing.assert_array_equal(array(found[name]["value"], parameter.shape), parameter.numpy())
        if found[name]["gradient"] != "computed":
            want = parameter.grad.numpy()
            np.testing.assert_allclose(array(found[name]["gradient"], want.shape), want, rtol=1e-3, atol=1e-5)
    for name, buffer in model.named_buffers():
        if name in found:
            np.testing.assert_array_equal(array(found[name]["value"], buffer.shape), buffer.numpy())


def test_chunks_are_whole_rows():
    run_model = nn.Sequential(nn.Linear(3000, 20, rng=0), nn.ReLU())
    recording, _ = read_back(explain(run_model, np.ones(3000, np.float32)))
    (weight,) = (c for c in recording["constants"] if c["name"] == "0.weight")
    assert recording["arrays"][weight["value"]]["chunk"] == 5 * 3000  # of 64 KB


def test_residual_sums_and_shortcuts_are_recorded():
    run = record(models.create("resnet20", rng=0), image("resnet20", 32))
    sums = [step for step in run.steps if step.op == "add"]
    assert len(sums) == 9
    assert all(kind == "value" for step in sums for kind, _ in step.inputs)
    for step in sums:
        a, b = (run.values[number].value for _, number in step.inputs)
        np.testing.assert_array_equal(run.values[step.output].value, a + b)
    assert [step.kind for step in sums] == ["BasicBlock"] * 9
    assert sums[3].path == "layer2.0"


def test_what_a_run_leaves_behind():
    model = nn.Sequential(nn.Conv2d(1, 2, 3, rng=0), nn.BatchNorm2d(2), nn.Dropout(0.5), nn.Flatten(), nn.Linear(8, 3, rng=0))
    model[1].eval()
    model[4].weight.requires_grad = False
    model[0].weight.grad = md.ones(2, 1, 3, 3)
    before = model.state_dict()
    page = explain(model, np.ones((1, 4, 4), np.float32), label=1)
    assert [module.training for module in model] == [True, False, True, True, True]
    np.testing.assert_array_equal(model[0].weight.grad.numpy(), np.ones((2, 1, 3, 3)))
    assert model[4].bias.grad is None
    assert not model[4].weight.requires_grad
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    recording, _ = read_back(page)
    gradient = {c["name"]: c["gradient"] for c in recording["constants"]}
    assert gradient["4.weight"] is None  # frozen
    assert gradient["4.bias"] is not None


def test_targets():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, rng=0))
    x = np.arange(4, dtype=np.float32).reshape(1, 2, 2)
    w = model[1].weight.numpy()
    best = int((w @ x.ravel() + model[1].bias.numpy()).argmax())
    assert record(model, x).target == {"kind": "number", "index": best, "value": 2}
    np.testing.assert_array_equal(record(model, x, target=1).values[0].gradient.ravel(), w[1])
    run = record(model, x, label=2)
    assert run.target == {"kind": "loss", "label": 2, "value": 4}
    p = run.values[3].value.ravel()  # the softmax that is shown beside
    np.testing.assert_allclose(run.values[0].gradient.ravel(), (p - [0, 0, 1]) @ w, rtol=1e-5)
    assert run.values[3].gradient is None


def test_other_models_and_inputs():
    class Functional(nn.Module):
        def forward(self, x):
            return F.relu(x * 2 - 1).sum((2, 3)) / 4

    run = record(Functional(), np.full((1, 3, 2, 2), 255, np.uint8))
    assert [step.op for step in run.steps] == ["multiply", "subtract", "relu", "sum", "divide", "softmax"]
    assert run.steps[0].inputs == [("value", 0), ("number", 2.0)]
    np.testing.assert_array_equal(run.values[run.output].value, [[1, 1, 1]])
    recording, _ = read_back(explain(Functional(), np.ones((3, 2, 2), np.float32)))
    assert [step["known"] for step in recording["steps"]] == [True, True, True, False, True, True]
    relu = recording["values"][3]
    assert relu["value"] == "computed"
    assert relu["gradient"] != "computed"  # sum is not known to the page, so what comes through it is stored

    model = nn.Linear(3, 2, rng=0).double()
    recording, array = read_back(explain(model, np.ones(3)))
    assert array(recording["constants"][0]["value"], (2, 3)).dtype == np.float64

    class Detached(nn.Module):
        def forward(self, x):
            return x.detach() + 1

    assert record(Detached(), np.ones((1, 3), np.float32)).target is None
    run = record(nn.Identity(), np.array([1, 3, 2], np.float32))
    assert [step.op for step in run.steps] == ["softmax"]
    np.testing.assert_array_equal(run.values[0].gradient, [[0, 1, 0]])


def test_json_holds_nan_and_infinity():
    model = nn.Sequential(nn.LeakyReLU(1.0))
    model[0].negative_slope = float("inf")
    recording, array = read_back(explain(model, np.array([np.nan, 1], np.float32)))
    assert recording["steps"][0]["params"] == {"negative_slope": "Infinity"}
    np.testing.assert_array_equal(array(recording["values"][0]["value"], 2), [np.nan, 1])


# ---------------------------------------------------------------- the page


def test_page_is_complete_and_offline(tmp_path):
    page = explain(models.create("lenet5", rng=0), image("lenet5", 28), tmp_path / "page.html", title="Five & <two>")
    assert (tmp_path / "page.html").read_text("utf-8") == page.html
    assert "<title>Five &amp; &lt;two&gt;</title>" in page.html
    elements = Elements(page)
    assert not {"link", "img", "iframe", "object"} & set(elements.tags)
    assert not re.search(r"https?://|@import|url\(|fetch\(|XMLHttpRequest|innerHTML", page.html)
    assert "default-src 'none'" in page.html
    assert "{{" not in re.sub(r"\$\{\{", "", elements.scripts["recording"])
    assert page._repr_html_().startswith("<iframe srcdoc=")
    assert repr(page).startswith("<Page of 0.9 MB")


EVIL = "</script><b id='evil'>{{STYLE}}<!--"


def evil_page():
    model = nn.Sequential({EVIL: nn.Flatten(), "last": nn.Linear(4, 2, rng=0)})
    return explain(model, np.ones((1, 2, 2), np.float32), classes=[EVIL, "b"], title=EVIL)


def test_names_are_text():
    page = evil_page()
    assert EVIL not in page.html
    recording, _ = read_back(page)
    assert recording["classes"][0] == recording["steps"][0]["path"] == recording["title"] == EVIL


def test_the_page_knows_what_python_thinks_it_knows():
    program = Elements(evil_page()).scripts["program"]
    names = set(re.findall(r"OPERATIONS\.(\w+) =", program))
    names |= set(re.findall(r"^  (\w+): \{", program.split("const ACTIVATIONS")[1].split("\n};")[0], re.M))
    assert names == KNOWN


def test_room():
    model, x = models.create("resnet20", rng=0), image("resnet20", 16)
    large, small = explain(model, x), explain(model, x, megabytes=2.5)
    assert len(small.html) < 2.5e6 < len(large.html)
    (first, _), (second, _) = read_back(large), read_back(small)
    assert "computed" not in [c["gradient"] for c in first["constants"]]
    assert [v["value"] == "computed" for v in second["values"]].count(True) > [
        v["value"] == "computed" for v in first["values"]
    ].count(True)


def test_a_run_that_does_not_fit_writes_nothing(tmp_path):
    with pytest.raises(ArgumentError, match=r"a run that fits into megabytes=0.5, got .* MB of numbers"):
        explain(models.create("mnist_cnn", rng=0), image("mnist_cnn", 28), tmp_path / "page.html", megabytes=0.5)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("model", "x", "options", "error", "message"),
    [
        ("lenet5", (1, 28, 28), {}, DtypeError, "expected model as a Module, got 'lenet5'"),
        (
            nn.Flatten(),
            (2, 1, 8, 8),
            {},
            ShapeError,
            r"one image .* got shape \(2, 1, 8, 8\). Take one image of the batch: x\[0\]",
        ),
        (nn.Flatten(), (28, 28), {}, ShapeError, r"got shape \(28, 28\). Take one"),
        (nn.Flatten(), (0, 4, 4), {}, ShapeError, r"got shape \(0, 4, 4\)"),
        (nn.Flatten(), "text", {}, DtypeError, "x of floats or uint8"),
        (nn.Flatten(), [[1.0], [1.0, 2.0]], {}, ShapeError, "nested lists"),
        (nn.Flatten(), np.ones((1, 4), int), {}, DtypeError, "int64 .* Convert"),
        (models.create("lenet5", rng=0), (1, 20, 20), {}, ShapeError, r"linear \[classifier.1\]: expected x with 400"),
        (nn.Linear(4, 3, rng=0), (1, 4), {"label": 3}, ArgumentError, "label from 0 to 2, got 3"),
        (nn.Linear(4, 3, rng=0), (1, 4), {"label": -1}, ArgumentError, "label of at least 0"),
        (nn.Linear(4, 3, rng=0), (1, 4), {"label": 1.5}, DtypeError, "label as an integer"),
        (nn.Linear(4, 3, rng=0), (1, 4), {"target": 3}, ArgumentError, "target from 0 to 2, got 3"),
        (nn.Linear(4, 3, rng=0), (1, 4), {"label": 1, "target": 1}, ArgumentError, "a label or a target, got both"),
        (nn.Linear(4, 3, rng=0), (1, 4), {"classes": ["a"]}, ShapeError, "3 classes, .* got 1 names"),
        (nn.Linear(4, 3, rng=0), (1, 4), {"title": 3}, DtypeError, "title as text"),
        (nn.Linear(4, 3, rng=0), (1, 4), {"megabytes": "9"}, DtypeError, "megabytes as a number"),
        (nn.Conv2d(1, 2, 3, rng=0), (1, 8, 8), {"label": 1}, ShapeError, r"output \(1, classes\) for a label"),
    ],
)
def test_bad_input(tmp_path, model, x, options, error, message):
    x = np.ones(x, np.float32) if isinstance(x, tuple) else x
    with pytest.raises(error, match=message):
        explain(model, x, tmp_path / "page.html", **options)
    assert list(tmp_path.iterdir()) == []


def test_models_that_return_no_tensor():
    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    class Fresh(nn.Module):
        def forward(self, x):
            return md.tensor(x.numpy())

    with pytest.raises(DtypeError, match="a model that returns one tensor, got tuple of Tensor"):
        explain(Pair(), np.ones((1, 2), np.float32))
    with pytest.raises(DtypeError, match="computed by minidl's operations"):
        explain(Fresh(), np.ones((1, 2), np.float32))


# ---------------------------------------------------------------- the command


def test_command(tmp_path, capsys, monkeypatch):
    from PIL import Image

    from minidl.cli._run import Description

    monkeypatch.chdir(tmp_path)
    picture = np.random.default_rng(0).integers(0, 90, (28, 28), np.uint8)
    Image.fromarray(picture).save("seven.png")
    model = models.create("lenet5", num_classes=2, rng=0)
    about = Description("lenet5", ("cat", "dog"), (1, 28, 28), (0.25,), (0.5,), "drawings")
    md.save(model, "model.safetensors", about.metadata())
    assert main(["explain", "model.safetensors", "seven.png", "--label", "dog", "--invert", "no"]) == 0
    assert capsys.readouterr().out == "wrote seven.html (0.9 MB)\n"
    scripts = Elements(explain(nn.Flatten(), np.ones((1, 2), np.float32))).scripts  # a page of the same form
    assert "recording" in scripts
    page = type("Page", (), {"html": (tmp_path / "seven.html").read_text("utf-8")})
    recording, array = read_back(page)
    assert recording["classes"] == ["cat", "dog"]
    assert recording["target"]["label"] == 1
    np.testing.assert_allclose(array(recording["values"][0]["value"], (28, 28)), (picture / 255 - 0.25) / 0.5, atol=1e-6)
    assert main(["explain", "resnet20", "seven.png", "--target", "3", "--out", "r.html"]) == 0
    capsys.readouterr()
    for arguments, message in [
        (["model.safetensors", "none.png"], "no such image file: none.png"),
        (["nonsense", "seven.png"], "expected a model file or one of lenet5"),
        (["model.safetensors", "seven.png", "--label", "cow"], "--label: expected one of cat, dog, got 'cow'"),
        (["model.safetensors", "seven.png", "--out", "no/where.html"], "--out: no such folder: no"),
        (["lenet5", "seven.png", "--target", "x"], "--target: expected the number of a class, got 'x'"),
    ]:
        assert main(["explain", *arguments]) == 2
        assert message in capsys.readouterr().err


# ---------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1300,1000"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser, tmp_path):
    """A function that opens a page; at the end nothing may have been complained about or loaded."""

    def open_page(page):
        page.save(tmp_path / "page.html")
        browser.get((tmp_path / "page.html").as_uri())
        return browser

    yield open_page
    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


class Everything(nn.Module):
    """Every operation that the page knows, but for what one label's loss adds; away from ties and kinks."""

    def __init__(self):
        super().__init__()
        self.grouped = nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2, rng=0)
        self.norm = nn.BatchNorm2d(4)
        self.batch = nn.BatchNorm2d(4, track_running_stats=False)
        self.groups = nn.GroupNorm(2, 4)
        self.instance = nn.InstanceNorm2d(4, affine=True)
        self.layer = nn.LayerNorm((4, 4))
        self.last = nn.Linear(16, 5, rng=0)
        rng = np.random.default_rng(3)
        for tensor in (*self.parameters(), *self.buffers()):
            if tensor.ndim == 1:
                tensor.data = rng.uniform(0.5, 1.5, tensor.shape)

    def forward(self, x):
        x = self.grouped(x)
        x = self.norm(x) + self.batch(x) * 0.5
        x = self.groups(F.leaky_relu(x, 0.1)) - self.instance(F.elu(x, 0.7))
        x = F.max_pool2d(x, 3, 2, 1) / 2 + F.avg_pool2d(x, 3, 2, 1, True, False)[:, :, :3]
        x = x * F.sigmoid(F.adaptive_avg_pool2d(x, 1)) - F.avg_pool2d(x, 3, 1, 1)
        x = F.gelu(x) + F.gelu(x, "tanh") + F.silu(x) + F.hardswish(x) + F.tanh(x) + F.softplus(x, 2.0)
        x = F.max_pool2d(x, 2, 1, dilation=(2, 1)) / (2 + F.relu(F.adaptive_max_pool2d(x, (1, 1))))
        x = self.layer(F.softmax(F.adaptive_avg_pool2d(x, (4, 4)), 1) + F.log_softmax(F.adaptive_avg_pool2d(x, (4, 4)), 2))
        return self.last(F.adaptive_max_pool2d(x, (3, 2)).reshape(1, -1)[:, :16])


@needs_browser
def test_arithmetic_of_the_page(opened):
    """All numbers of all known operations, forward and backward, as the page computes them against minidl's own."""
    model, x = Everything(), np.random.default_rng(0).normal(size=(2, 11, 9)).astype(np.float32)
    run = record(model, x, label=3)
    driver = opened(explain(model, x, label=3))
    computed = driver.execute_script(
        """return {
          values: values.map((v) => v.maker && v.maker.known ? Array.from(computeValue(v.number, 0, v.value.size)) : null),
          gradients: [...values, ...constants].map((s) => s.gradient && s.number !== recording.target.value
            && s.readers.every((r) => r.step.known) ? Array.from(computeGradient(s, 0, s.value.size)) : null)}"""
    )
    seen = {step.op for step in run.steps}
    assert not KNOWN - seen
    for step in run.steps:
        got = computed["values"][step.output]
        if got is not None:
            want = run.values[step.output].value.ravel()
            np.testing.assert_allclose(np.array(got, float), want, rtol=1e-4, atol=2e-5, err_msg=f"{step}")
    checked = 0
    for i, (source, got) in enumerate(zip([*run.values, *run.constants], computed["gradients"], strict=True)):
        readers = [step.op for step in run.steps if ("value", i) in step.inputs]
        if got is not None:
            np.testing.assert_allclose(
                np.array(got, float),
                source.gradient.ravel(),
                rtol=2e-3,
                atol=2e-5,
                err_msg=f"{i} {readers} {getattr(source, 'name', '')}",
            )
            checked += 1
    assert checked > 40


def number(driver, selector, attribute="data-value"):
    return float(driver.find_element(By.CSS_SELECTOR, selector).get_attribute(attribute))


@needs_browser
def test_click_a_number(opened):
    model, x = models.create("mnist_cnn", rng=0), image("mnist_cnn", 28)
    run = record(model, x)
    start = time.monotonic()
    driver = opened(explain(model, x))
    elapsed = time.monotonic() - start
    assert driver.find_element(By.ID, "map").is_displayed(), elapsed
    assert [e.get_attribute("aria-current") for e in driver.find_elements(By.CLASS_NAME, "card")].count("true") == 1

    driver.find_elements(By.CLASS_NAME, "card")[4].click()  # the second convolution
    cells = driver.find_element(By.ID, "map")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", cells)
    side = cells.size["width"] / 11
    ActionChains(driver).move_to_element_with_offset(
        cells, *(round((p + 0.5) * side - 5.5 * side) for p in (7, 3))
    ).click().perform()
    channel = driver.execute_script("return state.map")
    want = run.values[4].value[0, channel, 3, 7]
    assert driver.find_element(By.ID, "here").text.startswith(f"[{channel}, 3, 7] = ")
    assert number(driver, "#result") == want
    np.testing.assert_allclose(number(driver, ".check", "data-sum"), want, rtol=1e-4, atol=1e-5)
    # The tables themselves, summed here, and the bias in the line above them.
    driver.find_element(By.XPATH, "//button[contains(., 'Show all 32')]").click()
    groups = driver.find_elements(By.CLASS_NAME, "products")
    assert len(groups) == 32
    products = driver.execute_script(
        """return [...document.querySelectorAll(".products")].flatMap((group) =>
             [...group.querySelectorAll("table")[2].querySelectorAll("td")].map((cell) => Number(cell.dataset.value)))"""
    )
    assert len(products) == 288
    bias = model.features[3].bias.numpy()[channel]
    np.testing.assert_allclose(sum(products) + bias, want, rtol=1e-4, atol=1e-5)

    cell = groups[0].find_elements(By.CSS_SELECTOR, "table")[1].find_elements(By.TAG_NAME, "td")[4]
    ActionChains(driver).move_to_element(cell).perform()
    assert re.match(r"x\[\d+, 4, 8\] · w\[\d+, \d+, 1, 1\] = ", driver.find_element(By.CLASS_NAME, "hover").text)
    cell.click()  # a weight leads to its gradient
    title = driver.find_element(By.ID, "lens-name").text
    o, c = map(int, re.fullmatch(r"Gradient of features.3.weight\[(\d+), (\d+), 1, 1\]", title).groups())
    assert o == channel
    (weight,) = (constant for constant in run.constants if constant.name == "features.3.weight")
    want = weight.gradient[o, c, 1, 1]
    assert number(driver, "#result") == want
    np.testing.assert_allclose(number(driver, ".check", "data-sum"), want, rtol=1e-3, atol=1e-6)
    assert driver.find_element(By.ID, "backward").get_attribute("aria-pressed") == "true"


@needs_browser
def test_keys(opened):
    model, x = models.create("cifar_cnn", rng=0), image("cifar_cnn", 32)
    run = record(model, x, label=3)
    driver = opened(explain(model, x, label=3, classes=list("abcdefghij")))
    state = lambda name: driver.execute_script(f"return state.{name}")  # noqa: E731
    press = lambda *keys: ActionChains(driver).send_keys(*keys).perform()  # noqa: E731

    driver.find_elements(By.CLASS_NAME, "card")[0].click()
    press(Keys.TAB, Keys.TAB, Keys.TAB)
    assert state("layer") == 3
    ActionChains(driver).key_down(Keys.SHIFT).send_keys(Keys.TAB).key_up(Keys.SHIFT).perform()
    assert state("layer") == 2
    driver.execute_script("choose(1, 31)")  # row 1, column 1 of 30
    press(Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_LEFT, Keys.ARROW_LEFT, Keys.ARROW_LEFT, Keys.PAGE_DOWN)
    assert state("at") == 900 + 3 * 30
    assert driver.find_element(By.ID, "here").text.startswith("[1, 3, 0] = ")
    press("b")
    assert state("mode") == "backward"
    np.testing.assert_allclose(number(driver, "#result"), run.values[1].gradient[0, 1, 3, 0], rtol=1e-4, atol=1e-7)
    driver.execute_script("choose(0, 1 * 1024 + 7 * 32 + 9)")  # a pixel
    want = run.values[0].gradient[0, 1, 7, 9]
    assert number(driver, "#result") == want
    np.testing.assert_allclose(number(driver, ".check", "data-sum"), want, rtol=1e-3, atol=1e-7)
    zoom = state("zoom")
    press("+")
    assert state("zoom") > zoom
    driver.execute_script("setMode('forward'); choose(4, 0); document.getElementById('map').focus()")
    press(Keys.ENTER, Keys.ARROW_RIGHT, Keys.ARROW_DOWN)  # into the lens: the first window, row 1, column 1
    text = driver.find_element(By.CLASS_NAME, "hover").text
    source, h, w = map(int, re.match(r"x\[(\d+), (\d+), (\d+)\] ·", text).groups())
    assert (h, w) == (1, 1)
    press(Keys.ENTER)
    assert state("layer") == 3
    assert state("at") == source * 15 * 15 + 15 + 1
    press("b", "b", Keys.ESCAPE)
    assert state("mode") == "forward"
    assert state("at") is None
    assert driver.find_elements(By.ID, "result") == []


@needs_browser
def test_residual_sum_and_every_layer_open(opened):
    model, x = models.create("resnet20", rng=0), image("resnet20", 16)
    driver = opened(explain(model, x, label=2))
    run = record(model, x, label=2)
    driver.execute_script("choose(9, 5)")
    a, b = (float(run.values[n].value.ravel()[5]) for n in (8, 3))
    assert number(driver, "#result") == np.float32(a) + np.float32(b)
    errors = driver.execute_script(
        """const off = [];
        for (const mode of ["forward", "backward"]) for (let v = 0; v < values.length; v++) {
          state.mode = mode; choose(v, 0);
          const check = document.querySelector(".check[data-sum]");
          if (check) off.push([v, Number(check.dataset.sum), Number(check.dataset.shown)]);
        } return off;"""
    )
    assert len(errors) > 80
    for _, total, shown in errors:
        np.testing.assert_allclose(total, shown, rtol=1e-3, atol=1e-4)


@needs_browser
@pytest.mark.parametrize("kind", ["unknown operations", "no gradient", "vector", "NaN"])
def test_every_layer_of_unusual_runs_opens(opened, kind):
    class Model(nn.Module):
        def forward(self, x):
            if kind == "no gradient":
                return x.detach() + 1
            return x.exp().sum(-1) if kind == "unknown operations" else F.tanh(x).relu()

    x = np.linspace(-1, 1, 2 * 3 * 5).astype(np.float32)
    x = x if kind == "vector" else x.reshape(2, 3, 5)
    if kind == "NaN":
        x[0, 0, :3] = np.nan, np.inf, -np.inf
    driver = opened(explain(Model(), x))
    shown = driver.execute_script(
        """const shown = [];
        for (const mode of ["forward", "backward"]) for (let v = 0; v < values.length; v++) {
          state.mode = mode; choose(v, 2); shown.push(document.getElementById("lens").textContent);
        } return shown;"""
    )
    assert all(shown)
    text = " ".join(shown)
    assert ("does not know its arithmetic" in text) == (kind == "unknown operations")
    assert ("does not know the derivative" in text) == (kind == "unknown operations")
    assert ("has no target" in text) == (kind == "no gradient")
    assert ("−∞" in text) == (kind == "NaN")


@needs_browser
def test_looks(opened):
    driver = opened(evil_page())
    assert driver.find_elements(By.ID, "evil") == []
    assert driver.find_element(By.TAG_NAME, "h1").text == EVIL
    paper = lambda: driver.execute_script("return getComputedStyle(document.body).backgroundColor")  # noqa: E731
    assert paper() == "rgb(255, 255, 255)"
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]})
    assert paper() == "rgb(20, 22, 26)"
    driver.find_element(By.ID, "theme").click()
    assert paper() == "rgb(255, 255, 255)"
    unnamed = """const named = (e) => e.ariaLabel || e.getAttribute("aria-labelledby") || e.textContent.trim();
      return [...document.querySelectorAll("button, canvas[role], nav, section, table")].filter(
        (e) => e.checkVisibility() && !named(e)).map((e) => e.outerHTML)"""
    assert driver.execute_script(unnamed) == []
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    )
    driver = opened(explain(models.create("lenet5", rng=0), image("lenet5", 28)))
    for layer in (0, 1, 3, 8):
        for mode in ("forward", "backward"):
            driver.execute_script("state.mode = arguments[1]; choose(arguments[0])", layer, mode)
            assert driver.execute_script("return document.documentElement.scrollWidth") <= 400
