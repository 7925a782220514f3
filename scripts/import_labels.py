"""Import a CSV file of labels that were made elsewhere.

    python -m scripts.import_labels labels.csv --dry-run
    python -m scripts.import_labels labels.csv

The file has the columns image, label and annotator. `image` is the path or address of an image as
the pool lists it, or the image's id. `annotator` is the email of an account in Label Studio; if it
is empty, the label counts as a label from the data set. The whole file is checked before anything
is sent. Labels that are already in Label Studio are not sent again, so rerun the command to resume
an interrupted import.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from backend.base.command_line import CommandParser, run
from backend.base.errors import LabelFileError
from backend.base.settings import load_settings
from backend.labelstudio.project import LabelStudioProject
from backend.results.image_names import image_finder
from backend.results.import_file import LabelFile, read_label_file
from backend.results.import_plan import ImportPlan, plan_import
from backend.results.label_import import decode_named, import_labels
from backend.rounds.observe import read_everything_changed
from backend.store.files import lock
from scripts.console.options import add_project_option, open_chosen
from scripts.console.progress_bars import progress_bar

NAMES_SHOWN = 20


def main() -> int:
    """Check a file, print what it would change, and import it."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("file", type=Path, help="a CSV file in UTF-8 with a header")
    parser.add_argument(
        "--create-accounts",
        action="store_true",
        help="create an account, without a password, for each annotator who has none",
    )
    parser.add_argument("--dry-run", action="store_true", help="only print what would be imported")
    add_project_option(parser)
    arguments = parser.parse_args()
    with progress_bar() as progress:
        project, loop = open_chosen(load_settings(), arguments.project, progress)
        find_image = image_finder(loop.pool, is_attached=loop.is_attached)
        file = read_label_file(arguments.file, find_image, loop.classes.spell)
        with lock(loop.root, "import", wait_s=0):
            progress("reading annotations", 0, 0)
            read_everything_changed(project, loop.store)
            loop = decode_named(loop, file.labels, progress)
            accounts = accounts_of(project)
            plan = plan_import(loop, file.labels, accounts)
            if arguments.create_accounts and not arguments.dry_run and plan.no_account:
                create_accounts(project, plan.no_account)
                accounts = accounts_of(project)
                plan = plan_import(loop, file.labels, accounts)
            print("\n".join(describe(file, plan, may_create=arguments.create_accounts)))
            if arguments.dry_run or not plan.n_new:
                print("nothing was changed" if arguments.dry_run else "nothing to import")
                return 0
            n_imported = import_labels(loop, file.labels, accounts, progress)
    print(f"imported {n_imported:,} labels")
    return 0


def accounts_of(project: LabelStudioProject) -> dict[str, int]:
    """Return a mapping from email in lower case to user id, for all users."""
    return {email.casefold(): user_id for user_id, email in project.annotator_emails().items()}


def create_accounts(project: LabelStudioProject, emails: Iterable[str]) -> None:
    """Create an account for each email.

    Raises LabelFileError, and creates no account, if any of them is not an email.
    """
    wrong = [repr(email) for email in emails if "@" not in email]
    if wrong:
        more = ", …" if len(wrong) > NAMES_SHOWN else ""
        raise LabelFileError(
            f"no account was created, because these annotators are not email addresses: "
            f"{', '.join(wrong[:NAMES_SHOWN])}{more}"
        )
    for email in emails:
        project.create_account(email)
        print(f"created an account for {email}")


def describe(file: LabelFile, plan: ImportPlan, *, may_create: bool) -> Iterator[str]:
    """Yield lines that state what happens to the labels in the file."""
    n_of_tasks = sum(map(len, plan.new_tasks.values()))
    counts = {
        f"for {len(plan.new_tasks):,} new tasks": n_of_tasks,
        "for existing tasks": len(plan.annotations),
        "already there": plan.n_unchanged,
        "left out: the annotator chose another class earlier, or skipped": plan.n_different,
        **{f"left out: {reason}": count for reason, count in plan.left_out.items()},
        "left out: labels by the model": file.n_by_model,
    }
    yield f"{len(file.labels) + file.n_by_model:,} labels in the file"
    for text, count in counts.items():
        if count:
            yield f"{count:7,} {text}"
    if plan.no_account:
        yield _describe_missing(plan.no_account, may_create=may_create)


def _describe_missing(no_account: Mapping[str, int], *, may_create: bool) -> str:
    """Return a line that names the annotators who have no account."""
    names = ", ".join(f"{name} ({count:,})" for name, count in [*no_account.items()][:NAMES_SHOWN])
    more = ", …" if len(no_account) > NAMES_SHOWN else ""
    what = (
        "by annotators for whom accounts would be created"
        if may_create
        else ("left out: the annotators have no account; use --create-accounts")
    )
    return f"{sum(no_account.values()):7,} {what}: {names}{more}"


if __name__ == "__main__":
    run(main)
