"""The recording file: schema, writer, reader."""
