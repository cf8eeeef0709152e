"""The model behind a port: pictures in, pictures twice as large out."""
