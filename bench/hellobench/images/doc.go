// Package images builds the image set of HelloBench from Debian packages, Go
// programs of this module and npm packages: real software, made as a Dockerfile
// would make it, where the original images cannot be fetched.
//
// Nouns:
//
//   - recipe: how an image is made: its layers, what a container of it runs.
//   - layer: a line of a Dockerfile. Its id is a hash of its description and of
//     those below it, so layers that images share are built once.
//   - suite: a Debian release; the lowest layer of most images.
//   - cache: the directory with what was built, see store.
//   - epoch: when the archive of the suite was last changed. Files that building
//     makes bear this time; those of packages keep theirs, which are older.
//
// Invariants:
//
//  1. A layer or an image is in the cache whole or not at all: what describes it
//     is written last, by a rename. A build that was stopped goes on with the
//     first layer that is not there.
//  2. The same recipe on the same state of the archive gives the same layer, bit
//     for bit, but for the packages whose installation makes keys or bears the
//     time; which versions were installed is recorded with the image.
//  3. A layer is used only on the layer that it was built on.
//  4. What a build starts or mounts is in namespaces that end with it. No service
//     is started.
package images
