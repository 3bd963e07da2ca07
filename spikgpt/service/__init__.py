"""HTTP service that labels uploaded cells: a light server process, and worker processes that read and label."""
