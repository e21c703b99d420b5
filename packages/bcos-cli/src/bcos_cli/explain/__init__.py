"""Explanations of files, clips, shards and neurons."""
