"""One way to share work among processes: those of this machine, or of a cluster that an existing engine holds."""

from datamodules.engine.pool import Lost as Lost
from datamodules.engine.pool import Needs as Needs
from datamodules.engine.pool import Pool as Pool
from datamodules.engine.pool import default_workers as default_workers
from datamodules.engine.pool import in_this_process as in_this_process
from datamodules.engine.pool import open_pool as open_pool
