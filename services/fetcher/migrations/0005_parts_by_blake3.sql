-- Parts are addressed by BLAKE3 from here on: what was downloaded before is brought again where it is still wanted.
DELETE FROM fetcher.downloads;
COMMENT ON COLUMN fetcher.download_parts.sha256 IS 'the address of its blob: its BLAKE3, 64 lowercase hex digits';
COMMENT ON COLUMN fetcher.blobs.sha256 IS 'its address: its BLAKE3, 64 lowercase hex digits';
