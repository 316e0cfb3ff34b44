"""What the service answers, as types: from them come the OpenAPI description and the checks of every answer."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from cluster.jobs import State
from cluster.settings import Kind
from ingest.progress import Event, Progress


class View(BaseModel):
    """A part of an answer."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class GrantView(View):
    """What a job holds of the cluster while it is at work."""

    cpus: int
    """CPUs."""

    gpus: int
    """GPUs."""

    memory: int
    """Bytes of memory."""


class JobView(View):
    """A job: what was asked for, where it stands, how it ended. Times are Unix seconds on the service's clock."""

    id: str
    """Its name for good: `[a-z0-9-]`, at most 64 characters; its run folder is called the same."""

    kind: Kind
    """ingest, verify, repair, recentre, train or evaluate."""

    name: str
    """What people call it; may be empty."""

    state: State
    """queued, starting, running, stopping, lost, succeeded, failed or stopped."""

    settings: dict[str, Any]
    """All settings of its kind, defaults included."""

    after: str | None
    """Id of the job that has to succeed first."""

    priority: int
    """Jobs of higher priority start first."""

    asked_by: str
    """Name of the token that asked for it; `local` where none is needed."""

    created_at: float
    """When it was asked for."""

    moved_at: float
    """When its state changed last."""

    started_at: float | None
    """When its first attempt started."""

    ended_at: float | None
    """When it ended; null while it has not."""

    attempt: int
    """Number of the attempt under way, or of the last one; 0 before the first."""

    max_attempts: int
    """How many attempts were asked for, of those that count."""

    uncounted: int
    """Attempts that do not count: interrupted ones, and all before a resume."""

    last_attempt: int
    """Number of the last attempt that it may have: it fails for good when this one is lost."""

    stop_requested: bool
    """Somebody wants it stopped."""

    stop_by: str | None
    """Name of the token that wanted it stopped last."""

    resume_requested: bool
    """Somebody wants it resumed."""

    resume_by: str | None
    """Name of the token that wanted it resumed last."""

    error: str | None
    """Why it failed, stopped or was lost."""

    exit_code: int | None
    """Exit code of its last attempt."""

    result: dict[str, Any] | None
    """Its final figures."""

    grant: GrantView
    """What it was granted of the cluster."""

    version: int
    """Goes up with every change of the row."""

    move: int
    """Goes up with every change of state."""

    progress: Progress | None
    """The latest second of its newest attempt."""

    unknown: bool
    """It should be at work, but Ray cannot be reached, so nobody knows."""

    has_ended: bool
    """Nothing more will happen to it, unless somebody resumes it."""


class JobsPage(View):
    """A page of jobs, newest first."""

    jobs: list[JobView]
    """The jobs."""

    next: str | None
    """Cursor of the next page; null on the last."""


class MoveView(View):
    """A change of a job's state."""

    number: int
    """0 when it was asked for, then 1, 2, ..."""

    state_before: str
    """Its state before; empty when it was asked for."""

    state: State
    """Its state afterwards."""

    at: float
    """When, in Unix seconds."""

    by: str
    """Name of the token whose wish it was; `watcher` where it followed from what was seen."""

    reason: str
    """Why, as a sentence."""


class MovesView(View):
    """What has become of a job."""

    moves: list[MoveView]
    """In order."""


class EventsView(View):
    """Events of a run, the oldest first."""

    events: list[Event]
    """At most 2,000; ask again after the last of them."""


class SeriesView(View):
    """Curves of a training over all its attempts."""

    series: dict[str, list[list[float]]]
    """By name, points [step or epoch, value]."""


class NeedsView(View):
    """What a job would hold of the cluster."""

    cpus: int
    """CPUs."""

    gpus: int
    """GPUs."""

    memory_bytes: int
    """Bytes of memory."""


class DryRunView(View):
    """What a job would do; what is foretold beside these depends on its kind."""

    model_config = ConfigDict(extra="allow")

    kind: str
    """The kind that was asked for."""

    settings: dict[str, Any]
    """All settings, defaults included."""

    needs: NeedsView | None = None
    """What it would hold of the cluster; missing while Ray cannot be reached."""

    never: str | None = None
    """Why it could never start on this cluster; null if it could."""


class DeviceView(View):
    """A GPU of a node, as Ray sees it."""

    name: str
    """Its model."""

    utilisation: float | None
    """Share of the last second in which it was at work, 0 to 1."""

    memory_used_bytes: int | None
    """Memory in use."""

    memory_bytes: int | None
    """Memory altogether."""


class NodeView(View):
    """A machine of the cluster that is alive."""

    name: str
    """Host name."""

    node_id: str
    """The beginning of Ray's id of it."""

    address: str
    """Its address within the cluster."""

    state: Literal["alive"]
    """Nodes that are not alive are not shown."""

    is_head: bool
    """Ray's head runs here."""

    cpus: int
    """CPUs that Ray may give away."""

    gpus: int
    """GPUs that Ray may give away."""

    memory_bytes: int
    """Memory that Ray may give away."""

    cpu_share: float | None = None
    """Share of all its CPUs at work, 0 to 1."""

    host_memory_used_bytes: int | None = None
    """Memory in use on the machine, by everybody."""

    host_memory_bytes: int | None = None
    """Memory of the machine."""

    devices: list[DeviceView] = []
    """Its GPUs, one by one."""


class WorkView(View):
    """A job at work and what it holds."""

    id: str
    """The job."""

    kind: Kind
    """Its kind."""

    name: str
    """Its name; may be empty."""

    state: State
    """starting, running, stopping or lost."""

    grant: GrantView
    """What it holds."""


class ClusterView(View):
    """The cluster: what it has, and which jobs hold what of it."""

    reachable: bool
    """Ray answers."""

    error: str | None = None
    """Why Ray cannot be reached."""

    nodes: list[NodeView]
    """The nodes that are alive."""

    cpus: int
    """CPUs altogether."""

    gpus: int
    """GPUs altogether."""

    used_cpus: int
    """CPUs that jobs hold."""

    used_gpus: int
    """GPUs that jobs hold."""

    work: list[WorkView]
    """The jobs that hold them."""

    jobs: dict[State, int]
    """Number of jobs in each state that has any."""


class HealthView(View):
    """The process answers."""

    status: Literal["ok"]
    """Always ok."""


class ReadyView(View):
    """Whether jobs can be taken and run now."""

    store: bool
    """The store answers."""

    watcher: bool
    """The watcher has written to the store within the last half minute."""

    ray: bool
    """Ray answers."""
