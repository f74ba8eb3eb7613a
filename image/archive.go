package image

// maxArchiveEntries bounds the entries of a container image archive.
const maxArchiveEntries = 1 << 16
