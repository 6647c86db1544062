package netio

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// controlMessage is one control message of recvmsg(2), see cmsg(3).
type controlMessage struct {
	level, kind int32
	data        []byte
}

func (m *controlMessage) is(level, kind int32) bool { return m.level == level && m.kind == kind }

// nextMessage returns the first of a datagram's control messages, and those behind
// it. ok is false if there is none.
func nextMessage(control []byte) (m controlMessage, rest []byte, ok bool) {
	if len(control) < unix.SizeofCmsghdr {
		return m, nil, false
	}
	h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
	length := int(h.Len)
	if length < unix.SizeofCmsghdr || length > len(control) {
		return m, nil, false
	}
	m = controlMessage{h.Level, h.Type, control[unix.CmsgLen(0):length]}
	return m, control[min(len(control), unix.CmsgSpace(length-unix.CmsgLen(0))):], true
}
