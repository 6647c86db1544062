package listen

const (
	// queueLength is how many datagrams of one client may wait to be read;
	// more of its own are dropped.
	queueLength = 64
	// maxWaiting is how many bytes may wait in the queues of a socket's clients
	// together.
	maxWaiting = 64 << 20
	// history is how much that was read already is kept for Take, in bytes as
	// in datagrams: more than caddy-l4's matchers read (layer4.MaxBufLen).
	history = 20 << 10
)

// deliver takes datagrams from the socket. It is called by the socket's
// goroutine alone, and says false when the client has ended.
func (c *Conn) deliver(datagrams ...[]byte) bool {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return false
	}
	if sink := c.sink; sink != nil {
		c.mu.Unlock()
		if c.names.Load() != nil {
			c.names.Store(nil) // whoever accepted the client is through with them
		}
		sink(datagrams)
		return true
	}
	defer c.mu.Unlock()
	for _, datagram := range datagrams {
		if len(c.queue)-c.next >= queueLength || c.socket.waiting.Load() >= maxWaiting {
			c.socket.sockets.dropped.Add(1)
			continue
		}
		c.touch()
		c.queue = append(c.queue, append([]byte(nil), datagram...))
		c.wait(len(datagram))
	}
	c.more.Broadcast()
	return true
}

// queued is how many datagrams wait to be read.
func (c *Conn) queued() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inbox == nil {
		return 0
	}
	return len(c.queue) - c.next
}

// wait books bytes that wait to be read, or no longer do.
func (c *Conn) wait(bytes int) {
	c.unread += bytes
	c.socket.waiting.Add(int64(bytes))
}

// clear empties the queue.
func (c *Conn) clear() {
	c.wait(-c.unread)
	c.queue, c.next, c.offset, c.kept = nil, 0, 0, 0
}

// read reads from the first datagram that is not read to its end.
func (c *Conn) read(b []byte) int {
	datagram := c.queue[c.next]
	n := copy(b, datagram[c.offset:])
	if c.offset += n; c.offset == len(datagram) {
		c.next, c.offset = c.next+1, 0
		c.kept += len(datagram)
		c.wait(-len(datagram))
		c.forget()
	}
	return n
}

// forget drops what was read so long ago that nobody may ask for it again.
func (c *Conn) forget() {
	for c.next > 0 && (c.kept-len(c.queue[0]) >= history || c.next > history) {
		c.kept -= len(c.queue[0])
		c.queue[0] = nil
		c.queue = c.queue[1:]
		c.next--
	}
}

// Take gives the client over to sink: first the datagrams that were not read,
// then those that come, in order and a few in one call where they came at once.
// unread is how many of the bytes that Read has given out count as not read,
// because whoever read them only looked. The slices are valid until sink
// returns. From then on reading, deadlines, the idle timeout and Close have no
// meaning; [Conn.End] ends it.
func (c *Conn) Take(unread int, sink func(datagrams [][]byte)) {
	c.mu.Lock()
	if c.closed || c.taken {
		c.mu.Unlock()
		return
	}
	c.taken = true
	c.stopAlarm()
	c.more.Broadcast()
	done := c.kept + c.offset - unread // of what is in the queue, this much is really read
	for !c.closed {
		waiting := c.queue
		c.clear()
		if len(waiting) == 0 {
			c.sink, c.inbox = sink, nil
			break
		}
		// What comes meanwhile queues behind these. The lock is free, because
		// sink may end the client.
		c.mu.Unlock()
		for i, datagram := range waiting {
			if c.ended() {
				break
			}
			if done > 0 {
				read := min(done, len(datagram))
				done -= read
				if waiting[i] = datagram[read:]; len(waiting[i]) == 0 {
					continue
				}
			}
			sink(waiting[i : i+1])
		}
		c.mu.Lock()
	}
	c.mu.Unlock()
	c.socket.leftRoutes()
}

func (c *Conn) ended() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}
