"""Large images, the choices and Submit fit the screen without scrolling."""

from __future__ import annotations

import io

import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from backend.base.labeling import NewTask, Prediction, TaskImage
from backend.labelstudio.client import create_project
from backend.labelstudio.label_config import label_config_xml
from backend.labelstudio.project import LabelStudioProject
from backend.rounds.ordering import without_guess
from tests.browser.conftest import LAPTOP, NewPage
from tests.integration.conftest import Stack

DESKTOP = {"width": 1920, "height": 1080}
PHOTO, PANORAMA, UPRIGHT, SMALL = (1600, 1200), (1600, 400), (1200, 1600), (32, 32)


def open_task(stack: Stack, page: Page, size: tuple[int, int], n_classes: int) -> None:
    """Upload one image to a new project, and open its task."""
    project = make_project(stack, n_classes, is_large=max(size) > 64)
    content = io.BytesIO()
    Image.new("RGB", size, "teal").save(content, "JPEG")
    shown = project.upload({"a": TaskImage(content.getvalue(), "image/jpeg")})
    project.import_tasks([NewTask("a", {"image": shown["a"], "image_id": "a", "hint": "a guess"})])
    open_oldest_task(stack, page, project)


def make_project(stack: Stack, n_classes: int, *, is_large: bool) -> LabelStudioProject:
    info = stack.info
    server = info["label_studio_url"], info["api_key"]
    classes = [f"class {number}" for number in range(n_classes)]
    xml = label_config_xml(classes, has_hint=True, is_large=is_large)
    return LabelStudioProject(
        *server, create_project(*server, title="View under test", label_config=xml)
    )


def open_oldest_task(stack: Stack, page: Page, project: LabelStudioProject) -> None:
    """Log in, and follow the link that opens the oldest task of a project."""
    info = stack.info
    url = info["label_studio_url"]
    page.goto(f"{url}/user/login/")
    page.fill("input[name=email]", info["username"])
    page.fill("input[name=password]", info["password"])
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(lambda url: "/login" not in url)
    page.goto(f"{url}/projects/{project.project_id}/data?labeling=1")
    expect(page.locator(".lsf-image img[alt=image]")).to_be_visible()
    expect(page.get_by_test_id("bottombar-submit-button")).to_be_enabled()


def is_inside(locator: Locator, viewport: dict[str, int]) -> bool:
    box = locator.bounding_box()
    assert box is not None
    right, bottom = box["x"] + box["width"], box["y"] + box["height"]
    return (
        min(box["x"], box["y"]) >= 0
        and right <= viewport["width"]
        and (bottom <= viewport["height"])
    )


@pytest.mark.parametrize("viewport", [LAPTOP, DESKTOP], ids=["laptop", "desktop"])
@pytest.mark.parametrize("size", [PHOTO, PANORAMA, UPRIGHT, SMALL])
@pytest.mark.parametrize("n_classes", [10, 60])
def test_image_choices_and_submit_are_in_view(
    team: Stack,
    new_page: NewPage,
    viewport: dict[str, int],
    size: tuple[int, int],
    n_classes: int,
) -> None:
    page = new_page(viewport=viewport)
    open_task(team, page, size, n_classes)
    assert is_inside(page.locator(".lsf-image img[alt=image]"), viewport)
    assert is_inside(page.get_by_test_id("bottombar-submit-button"), viewport)
    if n_classes > 10:
        assert is_inside(page.get_by_placeholder("Filter the classes"), viewport)
    else:
        assert is_inside(page.locator(".lsf-choice").last, viewport)


def test_the_filter_leaves_the_classes_that_match(team: Stack, new_page: NewPage) -> None:
    page = new_page()
    open_task(team, page, PHOTO, 60)
    page.get_by_placeholder("Filter the classes").fill("class 57")
    expect(page.locator(".lsf-choice:visible")).to_have_count(1)


def test_an_image_without_a_guess_is_labeled_before_one_whose_guess_is_selected(
    team: Stack, new_page: NewPage
) -> None:
    page = new_page()
    project = make_project(team, 3, is_large=False)
    content = io.BytesIO()
    Image.new("RGB", SMALL, "teal").save(content, "JPEG")
    shown = project.upload({"a": TaskImage(content.getvalue(), "image/jpeg")})["a"]
    predictions = {
        "held-out": without_guess("r0001"),
        "guessed": Prediction("class 2", 0.75, 0.75, "r0001"),
    }
    project.import_tasks(
        [
            NewTask(image_id, {"image": shown, "image_id": image_id, "hint": ""}, prediction)
            for image_id, prediction in predictions.items()
        ]
    )
    open_oldest_task(team, page, project)
    choices = page.locator(".lsf-choice input")
    expect(choices).to_have_count(3)
    assert [choice.is_checked() for choice in choices.all()] == [False] * 3
    page.keyboard.press("2")
    expect(choices.nth(1)).to_be_checked()
    page.keyboard.press("Control+Enter")
    expect(choices.nth(2)).to_be_checked()  # the guess for the other image
    [given] = [a for of_task in project.annotations().values() for a in of_task]
    assert (given.image_id, given.label) == ("held-out", "class 1")
    assert not given.accepted_guess
