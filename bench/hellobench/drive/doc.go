// Package drive runs images on a worker in several ways, to compare them:
// containerd with the snapshotters overlayfs, stargz and slacker; and without
// containers by a copy of the whole disk, a qcow2 file backed by the image on a
// server, and a slacker clone.
//
// Nouns:
//
//   - image: one of the image set, with its task.
//   - bed: what the drivers of one run share: the link between server and
//     worker, registries, slackerd, directories.
//   - driver: one way. Prepare is the server's side and is not measured; Pull
//     brings the image to the worker; Run starts it and returns when it has said
//     hello; Forget makes the worker one that never saw it.
//   - started: a container, or a process in a chroot, that has said hello.
//
// Everything of a worker is in the worker's end of the link: the daemons that
// fetch, and with them all bytes that are fetched. Tasks run in network
// namespaces of their own, with their loopback interface up.
package drive
