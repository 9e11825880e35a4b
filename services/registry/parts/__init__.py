"""Uploads in parts: UploadService."""
