package netio

import "golang.org/x/sys/unix"

// fionwrite is FIONWRITE of sys/filio.h: the bytes in the send buffer, which
// keeps them until they are acknowledged.
const fionwrite = 0x40046677

func unsentBytes(fd int) (int, error) { return unix.IoctlGetInt(fd, fionwrite) }
