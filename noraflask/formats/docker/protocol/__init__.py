"""OCI Distribution, the pure part: bytes and values in, bytes and values out. Sections named are those of the OCI distribution-spec 1.1."""
