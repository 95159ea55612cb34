"""What people look at: the pages of a run and of a diagnosis, charts, films, pictures, and the live display."""
