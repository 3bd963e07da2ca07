"""Web page that labels files of cells: a Gradio page, and worker processes that read and label."""
