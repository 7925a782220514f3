"""Annotators label one round in a real browser while the lead watches the dashboard."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
from playwright.sync_api import Locator, Page, expect

from backend.images.known_labels import true_labels
from backend.labelstudio.choice_tags import HOTKEYS
from backend.labelstudio.project import LabelStudioProject
from tests.browser.conftest import LAPTOP, NewPage, login_of_the_lead, sign_up
from tests.integration.conftest import Stack
from tests.integration.people import Person, pool_of
from tests.patience import wait_for

WIDE = {"width": 1400, "height": 900}
TASK = ".lsf-current-task__task-id"
SCORE_CELL = 1  # of a row of the table, after the number of annotations


@pytest.fixture(scope="module")
def project(team: Stack) -> LabelStudioProject:
    info = team.info
    return LabelStudioProject(info["label_studio_url"], info["api_key"], info["project_id"])


@pytest.fixture(scope="module")
def keys(team: Stack, project: LabelStudioProject) -> Mapping[str, str]:
    """The hotkey of each image's true label."""
    choices = project.label_config().choices
    key_of = dict(zip(choices, HOTKEYS, strict=True))
    return {image_id: key_of[label] for image_id, label in true_labels(pool_of(team)).items()}


@pytest.fixture(scope="module")
def first(team: Stack) -> str:
    """The version in service when the first round is done."""
    with Person(team) as lead:
        return str(lead.wait_for_rest(1)["version"])


def label_all(page: Page, stack: Stack) -> None:
    page.goto(stack.info["project_url"])
    page.get_by_role("button", name="Label All Tasks", exact=True).click()
    expect(page.locator(".lsf-choices")).to_be_visible()
    expect(page.get_by_test_id("bottombar-submit-button")).to_be_enabled()


def shown_task(page: Page) -> int:
    found = re.match(r"#?(\d+)", page.locator(TASK).inner_text())
    assert found is not None
    return int(found[1])


def image_of(page: Page, stack: Stack, task_id: int) -> str:
    response = page.request.get(f"{stack.info['label_studio_url']}/api/tasks/{task_id}/")
    return str(response.json()["data"]["image_id"])


def submit_by_keys(page: Page, stack: Stack, keys: Mapping[str, str]) -> int:
    """Label the task that is shown, wait for the next one, and return the id of the first."""
    task_id = shown_task(page)
    key = keys[image_of(page, stack, task_id)]
    choice = page.locator(".lsf-choice", has_text=f"[{key}]")
    if not choice.locator("input").is_checked():  # its key would deselect the guess
        page.keyboard.press(key)
        expect(choice.locator("input")).to_be_checked()
    with page.expect_response(
        lambda r: f"/api/tasks/{task_id}/annotations" in r.url and r.request.method == "POST"
    ) as sent:
        page.keyboard.press("Control+Enter")
    assert sent.value.status == 201
    expect(page.locator(TASK)).not_to_contain_text(re.compile(rf"^#?{task_id}\b"))
    return task_id


def asked_by(stack: Stack, version: str) -> set[str]:
    """Return the images that a version has asked."""
    with Person(stack) as someone:
        tasks = someone.get("/api/tasks", project=someone.project_id, page_size=500, fields="all")
    data = [task["data"] for task in tasks["tasks"]]
    return {d["image_id"] for d in data if d.get("asked_version") == version}


def scores_of(stack: Stack, version: str) -> list[float]:
    """Return a version's confidence in the open images, lowest first."""
    with Person(stack) as someone:
        tasks = someone.get("/api/tasks", project=someone.project_id, page_size=500, fields="all")
    return sorted(
        prediction["score"]
        for task in tasks["tasks"]
        for prediction in task["predictions"]
        if prediction["model_version"] == version and not task["is_labeled"]
    )


def is_in_view(locator: Locator) -> bool:
    box = locator.bounding_box()
    return box is not None and box["y"] >= 0 and box["y"] + box["height"] <= LAPTOP["height"]


@pytest.mark.usefixtures("first")
def test_the_labeling_page_fits_a_laptop_and_two_annotators_get_different_images(
    team: Stack, new_page: NewPage
) -> None:
    ada, grace = new_page(), new_page()
    sign_up(ada, team, "ada@example.org")
    sign_up(grace, team, "grace@example.org")
    label_all(ada, team)
    label_all(grace, team)
    assert shown_task(ada) != shown_task(grace)
    for page in (ada, grace):
        assert is_in_view(page.locator(".lsf-image img[alt=image]"))
        assert is_in_view(page.locator(".lsf-choice").last)
        assert is_in_view(page.get_by_test_id("bottombar-submit-button"))
        hint = page.get_by_text(re.compile(r"guess"))
        assert is_in_view(hint.first)


def test_the_dashboard_shows_the_training_after_a_batch_and_a_rollback_changes_the_order(
    team: Stack,
    new_page: NewPage,
    project: LabelStudioProject,
    keys: Mapping[str, str],
    first: str,
) -> None:
    lead = new_page(viewport=WIDE, **login_of_the_lead(team))
    lead.goto(team.info["dashboard_url"])
    expect(lead.locator("#now .lead")).to_contain_text(f"{first} in service")
    curve = lead.locator("#curve img")
    before = curve.evaluate("img => img.currentSrc")

    joan = new_page()
    sign_up(joan, team, "joan@example.org")
    label_all(joan, team)
    with Person(team) as someone:
        missing = team.settings.retrain_after - someone.status()["new_annotations"]
    labeled = {submit_by_keys(joan, team, keys) for _ in range(missing)}
    assert len(labeled) == missing

    # The lead sees the training begin and its progress …
    training = lead.locator("#jobs .job", has_text="Training")
    expect(training.locator("progress")).to_be_visible()
    expect(training).to_contain_text(re.compile(r"\d+ of [\d,]+ (steps|images)"))
    # … and its result: a version, a point on the curve, other images.
    second = f"r{int(first[1:]) + 1:04d}"
    expect(lead.locator("#versions tbody tr").first).to_contain_text(second)
    assert curve.evaluate("img => img.currentSrc") != before
    expect(lead.locator("#now .lead")).to_contain_text(f"{second} in service")
    with Person(team) as someone:
        someone.wait_for_rest(int(second[1:]))
    asked = {f"Image {image_id}" for image_id in asked_by(team, second)}
    next_images = lead.locator("#next img")
    wait_for(
        lambda: asked & set(next_images.evaluate_all("all => all.map(img => img.alt)")),
        "images of the new batch",
    )
    expect(lead.locator("#people")).to_contain_text("joan@example.org")

    lead.on("dialog", lambda dialog: dialog.accept())
    lead.get_by_role("button", name=f"Roll back: {first}").click()
    expect(lead.locator("#now .lead")).to_contain_text(f"{first} in service")
    wait_for(lambda: project.model_version() == first, "Label Studio's order")
    order = scores_of(team, first)
    assert order != scores_of(team, second)
    joan.goto(team.info["project_url"])
    joan.get_by_role("tab", name="Least confident first").click()
    rows = joan.locator(".lsf-table-row")
    expect(rows.first).to_be_visible()
    shown = [float(row.split("\n")[SCORE_CELL]) for row in rows.all_inner_texts()]
    assert len(shown) >= 5
    assert shown == pytest.approx(order[: len(shown)], abs=6e-4)  # three decimals are shown
