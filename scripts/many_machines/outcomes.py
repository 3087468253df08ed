"""How a job on a server can end, other than well. They never leave the worker that they happen in: see `worker`."""


class WrongUse(Exception):
    """Something that the user has to change before any work; the message says what."""


class Lost(Exception):
    """Server, process or connection is gone, hangs, or answers 500: another worker may do the job."""


class Hung(Lost):
    """It is there, and makes nothing: it had better not get the same job again."""


class Unfit(Exception):
    """This server cannot do any such job: the pack, a checkpoint or a node is missing there."""


class NodeError(Exception):
    """A node of the graph says no. It would on any server."""
