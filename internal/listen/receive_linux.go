package listen

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// read brings datagrams to their clients until the socket is closed. It waits
// in the poller of package net and takes all that has come in at once.
func (u *udpSocket) read() {
	trouble := u.trouble()
	raw, err := u.conn.SyscallConn()
	if err != nil {
		return // closed already
	}
	var batch batch
	for {
		if batch.receiver, err = netio.NewReceiver(true); err == nil {
			break
		}
		trouble.wait(err)
	}
	defer batch.receiver.Free()
	look := func(fd uintptr) bool {
		batch.datagrams, err = batch.receiver.Receive(int(fd))
		return !errors.Is(err, unix.EAGAIN)
	}
	for raw.Read(look) == nil {
		if err != nil {
			trouble.wait(err)
			continue
		}
		trouble.over()
		batch.deliver(u)
	}
}

// batch is what was received at once.
type batch struct {
	receiver  *netio.Receiver
	datagrams [][]byte
	keys      [netio.Batch]key
	booked    [netio.Batch]bool
	group     [][]byte // datagrams of one client
}

// deliver hands over the datagrams client by client, those of each in order.
func (b *batch) deliver(u *udpSocket) {
	for i := range b.datagrams {
		b.keys[i] = key{client: b.receiver.From(i)}
		if u.several {
			b.keys[i].local = localOf(b.receiver.Control(i))
		}
	}
	u.fresh = 0
	clear(b.booked[:])
	for i := range b.datagrams {
		if b.booked[i] {
			continue
		}
		b.group = append(b.group[:0], b.datagrams[i])
		for j := i + 1; j < len(b.datagrams); j++ {
			if b.keys[j] == b.keys[i] {
				b.group = append(b.group, b.datagrams[j])
				b.booked[j] = true
			}
		}
		u.deliver(b.keys[i], b.group...)
	}
}

// pathTo is the way back to a client, from the address that it sent to.
func (u *udpSocket) pathTo(k key) path {
	var from []byte
	if k.local.IsValid() {
		from = fromLocal(u.sender.ipv4, k.local)
	}
	return netio.NewPath(k.client, u.sender.ipv4, from)
}

type path = netio.Path
