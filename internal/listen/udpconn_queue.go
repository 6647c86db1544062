package listen

const (
	// queueLength is the most datagrams of one client that may wait to be read. Its
	// further datagrams are dropped.
	queueLength = 64
	// maxQueuedBytes bounds the datagrams in the queues of all clients of a socket.
	maxQueuedBytes = 64 << 20
	// maxHistory bounds the datagrams that Read has returned and that are kept for
	// Take, both in bytes and in datagrams. It is more than caddy-l4's matchers
	// read (layer4.MaxBufLen).
	maxHistory = 20 << 10
)

// deliver queues datagrams or passes them to the sink. Only the socket's reading
// goroutine calls it. It returns false if the client has ended before them.
func (c *Conn) deliver(datagrams ...[]byte) bool {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return false
	}
	if sink := c.sink; sink != nil {
		c.mu.Unlock()
		if c.addrs.Load() != nil {
			c.addrs.Store(nil) // the matchers have finished, so free the memory
		}
		return sink(datagrams)
	}
	defer c.mu.Unlock()
	for _, datagram := range datagrams {
		if len(c.queue)-c.next >= queueLength || c.socket.queuedBytes.Load() >= maxQueuedBytes {
			c.socket.sockets.dropped.Add(1)
			continue
		}
		c.touch()
		c.queue = append(c.queue, append([]byte(nil), datagram...))
		c.addUnreadLocked(len(datagram))
	}
	c.wake.Broadcast()
	return true
}

// queued returns the number of unread datagrams.
func (c *Conn) queued() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inbox == nil {
		return 0
	}
	return len(c.queue) - c.next
}

// addUnreadLocked adds to the counts of unread bytes, of the client and of the socket.
func (c *Conn) addUnreadLocked(bytes int) {
	c.unread += bytes
	c.socket.queuedBytes.Add(int64(bytes))
}

func (c *Conn) clearQueueLocked() {
	c.addUnreadLocked(-c.unread)
	c.queue, c.next, c.offset, c.kept = nil, 0, 0, 0
}

// readQueueLocked reads from the first datagram that is not read to its end.
func (c *Conn) readQueueLocked(b []byte) int {
	datagram := c.queue[c.next]
	n := copy(b, datagram[c.offset:])
	if c.offset += n; c.offset == len(datagram) {
		c.next, c.offset = c.next+1, 0
		c.kept += len(datagram)
		c.addUnreadLocked(-len(datagram))
		c.trimHistoryLocked()
	}
	return n
}

// trimHistoryLocked drops the oldest read datagrams beyond maxHistory.
func (c *Conn) trimHistoryLocked() {
	for c.next > 0 && (c.kept-len(c.queue[0]) >= maxHistory || c.next > maxHistory) {
		c.kept -= len(c.queue[0])
		c.queue[0] = nil
		c.queue = c.queue[1:]
		c.next--
	}
}

// Take hands the client over to sink, which receives the unread datagrams and
// then all later ones, in order. Datagrams that arrive together may come in one
// call. The unread datagrams begin no new client if sink returns false.
//
// unread is the number of bytes at the end of what Read has returned that count
// as unread, because the reader only matched them and did not consume them.
//
// After Take, reading, deadlines, the idle timeout and Close have no effect;
// [Conn.End] ends the client.
func (c *Conn) Take(unread int, sink Sink) {
	c.mu.Lock()
	if c.closed || c.taken {
		c.mu.Unlock()
		return
	}
	c.taken = true
	c.stopTimerLocked()
	c.wake.Broadcast()
	consumed := c.kept + c.offset - unread // bytes at the beginning of the queue
	for !c.closed {
		queue := c.queue
		c.clearQueueLocked()
		if len(queue) == 0 {
			c.sink, c.inbox = sink, nil
			break
		}
		// Datagrams that arrive now are queued and come next. The lock is not held
		// during sink, because sink may end the client.
		c.mu.Unlock()
		for i, datagram := range queue {
			if c.ended() {
				break
			}
			if consumed > 0 {
				skip := min(consumed, len(datagram))
				consumed -= skip
				if queue[i] = datagram[skip:]; len(queue[i]) == 0 {
					continue
				}
			}
			sink(queue[i : i+1])
		}
		c.mu.Lock()
	}
	c.mu.Unlock()
	c.socket.countTaken()
}

func (c *Conn) ended() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}
