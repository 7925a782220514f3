"""Large images, the choices and Submit fit the screen without scrolling."""

from __future__ import annotations

import io

import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from backend.base.labeling import NewTask, TaskImage
from backend.labelstudio.client import create_project
from backend.labelstudio.label_config import label_config_xml
from backend.labelstudio.project import LabelStudioProject
from tests.browser.conftest import LAPTOP, NewPage
from tests.integration.conftest import Stack

DESKTOP = {"width": 1920, "height": 1080}
PHOTO, PANORAMA, UPRIGHT, SMALL = (1600, 1200), (1600, 400), (1200, 1600), (32, 32)


def open_task(stack: Stack, page: Page, size: tuple[int, int], n_classes: int) -> None:
    """Upload one image to a new project, and open its task."""
    info = stack.info
    server = info["label_studio_url"], info["api_key"]
    classes = [f"class {number}" for number in range(n_classes)]
    xml = label_config_xml(classes, has_hint=True, is_large=max(size) > 64)
    project = LabelStudioProject(
        *server, create_project(*server, title="View under test", label_config=xml)
    )
    content = io.BytesIO()
    Image.new("RGB", size, "teal").save(content, "JPEG")
    shown = project.upload({"a": TaskImage(content.getvalue(), "image/jpeg")})
    project.import_tasks([NewTask("a", {"image": shown["a"], "image_id": "a", "hint": "a guess"})])
    page.goto(f"{server[0]}/user/login/")
    page.fill("input[name=email]", info["username"])
    page.fill("input[name=password]", info["password"])
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(lambda url: "/login" not in url)
    page.goto(f"{server[0]}/projects/{project.project_id}/data?labeling=1")
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
