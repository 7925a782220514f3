"""Start, follow and stop the stack on one machine."""

from __future__ import annotations

import json
import os
import subprocess
import time
from contextlib import ExitStack
from typing import Any

from backend.base.project_settings import ATTACHED
from scripts.console.progress_bars import progress_bar
from scripts.local import programs, supervisor
from scripts.local.folder import StackError, StackFolder
from scripts.local.processes import is_running, processes, stop
from scripts.local.programs import APP, PYTHON, ROOT, Program, check_ports
from scripts.local.settings import USERNAME, StackSettings, make_environment
from scripts.local.supervisor import wait_until_ready
from scripts.setup.checks import make_plan
from scripts.setup.projects import Link, find_record, project_links
from scripts.setup.request import Request


class LocalStack:
    """PostgreSQL, Redis, Label Studio and our own processes, run by one supervisord.

    `stack.json` in the stack's folder lists all addresses; `stack.env` configures our own commands.
    """

    def __init__(self, settings: StackSettings) -> None:
        self.folder = StackFolder(settings.var_dir.resolve())
        self.settings = settings.within(self.folder)

    def up(self) -> int:
        """Start the stack if needed; return when it is ready (DETACH) or has been stopped.

        The settings of the project are checked before anything starts.
        """
        self.folder.path.mkdir(parents=True, exist_ok=True)
        with self.folder.start_lock(), ExitStack() as undo:
            if is_running(self.folder):
                self._name_new_projects()
                print("already running:\n" + where_to_go(self.folder.read()))
                self._say_how_to_add_a_project()
                return 0
            self._check_settings()
            if processes(self.folder):
                print("an earlier stack left processes behind")
                stop(self.folder)
            check_ports(self.settings)
            undo.callback(stop, self.folder)
            self._start()
            undo.pop_all()
        try:
            print(where_to_go(self.folder.read()), flush=True)
            return 0 if self.settings.detach else self._follow()
        except KeyboardInterrupt:
            stop(self.folder)
            return 0

    def down(self) -> int:
        """Stop every process of the stack."""
        if not processes(self.folder):
            print("not running")
            return 0
        stop(self.folder)
        return 0

    def _check_settings(self) -> None:
        """Raise a TightloopError if the project cannot be set up with these settings."""
        request = Request.from_settings(self.settings)
        if request.value("pool") == ATTACHED:
            request.existing_project()
        elif not request.is_for_existing:  # otherwise, set-up only repairs the connections
            with progress_bar() as progress:
                make_plan(request, progress)

    def _start(self) -> None:
        (self.folder.path / "log").mkdir(exist_ok=True)
        self.folder.update(pids={})  # remove the pids of an earlier stack
        self.folder.make_sockets_folder()
        environment = make_environment(self.settings, self.folder)
        services = programs.services(self.settings, self.folder, environment)
        workers = programs.workers()
        supervisord = supervisor.start(self.folder, environment, [*services, *workers])
        rpc = supervisor.connect(self.folder)

        self._run(rpc, [program for program in services if program.group != APP])
        # Label Studio and the backend do not wait for each other, which saves a few seconds.
        self._run(rpc, [program for program in services if program.group == APP])
        projects = set_up_projects(environment)  # set-up calls the backend's /setup
        self._run(rpc, workers)

        pids = {info["name"]: info["pid"] for info in rpc.getAllProcessInfo() if info["pid"]}
        names = [*(program.name for program in (*services, *workers)), "supervisord"]
        self.folder.update(
            label_studio_url=environment["LABEL_STUDIO_URL"],
            username=USERNAME,
            password=environment["LABEL_STUDIO_PASSWORD"],
            api_key=environment["LABEL_STUDIO_API_KEY"],
            project_id=projects[0]["project_id"],
            project_url=projects[0]["project_url"],
            projects=projects,
            backend_url=environment["BACKEND_URL"],
            dashboard_url=f"{environment['BACKEND_URL']}/dashboard",
            dashboard_username=environment["DASHBOARD_USER"],
            dashboard_password=environment["DASHBOARD_PASSWORD"],
            redis_url=environment["REDIS_URL"],
            model_dir=environment["MODEL_DIR"],
            webhook_secret=environment["WEBHOOK_SECRET"],
            pids={"supervisord": supervisord.pid, **pids},
            logs={name: str(self.folder.log(name)) for name in names},
        )
        rpc.startProcess("watch", False)

    def _run(self, rpc: Any, together: list[Program]) -> None:
        """Start programs in parallel, and return when all of them are ready."""
        for program in together:
            rpc.startProcess(f"{program.group}:{program.name}", False)
        for program in together:
            wait_until_ready(rpc, program, self.folder)

    def _name_new_projects(self) -> None:
        """Update the projects in stack.json: some may have been set up after the stack started."""
        known = {link["project_id"] for link in self.folder.read().get("projects", ())}
        links = project_links(self.settings.model_dir, self.settings.browser_url)
        if {link["project_id"] for link in links} - known:
            self.folder.update(projects=links)

    def _say_how_to_add_a_project(self) -> None:
        """Print how to set up the requested project if it does not exist yet."""
        request = Request.from_settings(self.settings)
        if request.title and find_record(self.settings.model_dir, request.title) is None:
            print(
                f'  "{request.title}" is not set up yet. While the stack runs, set it up with\n'
                "  .venv/bin/python -m scripts.setup_project --title … --pool … --classes …\n"
            )

    def _follow(self) -> int:
        """Print each restart of a program until `make down` stops the stack or supervisord dies."""
        with self.folder.log("watch").open() as log:
            log.seek(0, os.SEEK_END)
            while is_running(self.folder):
                print(log.read(), end="", flush=True)
                time.sleep(1)
        if self.folder.read()["pids"]:
            stop(self.folder)
            raise StackError("supervisord died" + self.folder.tail("supervisord"))
        return 0


def set_up_projects(environment: dict[str, str]) -> list[Link]:
    """Set up the projects and return their links; on failure, set-up prints the reason."""
    print("setting up the project", flush=True)
    command = [PYTHON, "-m", "scripts.setup_project", "--json"]
    done = subprocess.run(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        raise StackError("the project could not be set up: see the message above")
    return list(json.loads(done.stdout)["projects"])


def where_to_go(stack: dict[str, Any]) -> str:
    """Return the addresses and passwords that a user needs first."""
    # If an older version started the stack, it recorded neither a user name nor a password.
    known = filter(None, (stack.get("dashboard_username"), stack.get("dashboard_password")))
    login = ", ".join(known) or "restart the stack to get one (make down, make up)"
    projects = stack.get("projects", [])
    links = [f"{link['project_url']}  {link['title']}" for link in projects]
    if len(links) < 2:
        links = [stack["project_url"]]
    addresses = "\n             ".join(links)
    return f"""
  Open       {addresses}
  Log in as  {stack["username"]}
  Password   {stack["password"]}
  Then press "Label All Tasks": the images that the model is least sure of come first.

  Dashboard  {stack["dashboard_url"]}
  Login for changes there: {login}

  `make status` shows the progress, and `make down` stops everything.
"""
