"""The local page and the HTTP API: files in, predict's rows and what was seen out."""
