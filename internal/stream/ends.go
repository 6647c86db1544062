package stream

// flow is the state of one direction of a relay, from a source to a sink.
//
//	            source ends                       room in the sink
//	flowing --------------------------> finished <----------------- ending
//	 |   ^ \ source is reset                                          ^ source
//	 |   |  `-------------------------> flushing <--------- failing   | ends
//	 |   | room in the sink                 |  room in the     ^      |
//	 v   |                                  |  sink            | source is reset
//	blocked -------------------------------------------------- + -----+
//	                                        |
//	                                        | the sink has acknowledged all
//	                                        v
//	                                    RST to the sink; the relay is over
//
// From flowing and blocked, the loss of the sink leads to discarding, and the
// end or reset of the source from there to discarded. From ending, failing and
// flushing, the loss of the sink leads to discarded.
type flow uint8

const (
	flowing    flow = iota // bytes are read from the source and written to the sink
	blocked                // the sink has no room; the source is not read
	ending                 // the source has ended; the sink has no room for its last bytes
	finished               // the source has ended, and the sink was sent a FIN
	failing                // the source was reset; the sink has no room for its last bytes
	flushing               // the source was reset; the sink has not acknowledged its last bytes
	discarding             // the sink takes no more bytes; the source is read and its bytes are dropped
	discarded              // the sink takes no more bytes, and the source has ended or was reset
)

// reads reports whether the source is to be read.
func (f flow) reads() bool { return f == flowing || f == discarding }

// holds reports whether the flow waits for room in the sink. Only then the mover may
// keep bytes for it.
func (f flow) holds() bool { return f == blocked || f == ending || f == failing }

// sourceEnded reports whether nothing more is read from the source.
func (f flow) sourceEnded() bool {
	return f == ending || f == finished || f == failing || f == flushing || f == discarded
}

// loss is what the error of a write to a side has told about what that side
// still sends. The error comes once: after it, a read returns the end of the
// stream whether there was a FIN or not.
type loss uint8

const (
	notLost    loss = iota // no write has failed
	lostReset              // it was reset before it finished: the end of its stream is no FIN
	lostClosed             // it may have finished before: a read tells
)

// output is a set of actions that a mover must do after an input.
type output uint8

const (
	// sendFinish: send a FIN to the sink of the source that the input concerns.
	sendFinish output = 1 << iota
	// awaitAck: wait until that sink has acknowledged all bytes, at most for the
	// idle timeout, then call acked.
	awaitAck
	// dropHeld: drop the bytes that are held for the side that was lost.
	dropHeld
	// closeBoth: the relay is over. closing tells how each side is closed.
	closeBoth
)

// ends decides how a relay ends, following the table in the package comment. It
// has no sockets and no clock: a mover passes in what happened and does what the
// returned output says. It is guarded by the mover's lock.
//
// The zero value is a relay whose two directions flow. Once it is over, inputs
// change nothing.
type ends struct {
	flows  [2]flow // by source
	lost   [2]loss // by side
	over   bool
	manner manner  // of its end
	owed   [2]bool // by side: bytes for it are left; set with orderly
	reason Reason  // of the end so far; final once over
}

// manner is how a relay was over.
type manner uint8

const (
	complete manner = iota // both directions have ended, or one was reset
	orderly                // before, by its idle timeout or because a side cannot be half-closed
	abrupt                 // before, by a cut: both sides are reset
)

// startFinished begins with a client that has sent a FIN, which was passed on. It
// precedes all other inputs.
func (e *ends) startFinished() {
	e.note(ClientSide.closed())
	e.flows[ClientSide] = finished
}

// block: the sink of a source has no room for bytes that were read.
func (e *ends) block(source Side) {
	if e.flows[source] == flowing && !e.over {
		e.flows[source] = blocked
	}
}

// room: the sink of a source has taken all bytes that were held for it.
func (e *ends) room(source Side) output {
	if e.over {
		return 0
	}
	switch e.flows[source] {
	case blocked:
		e.flows[source] = flowing
	case ending:
		return e.finish(source)
	case failing:
		return e.flush(source)
	}
	return 0
}

// end: a read of a source has returned the end of its stream.
func (e *ends) end(source Side) output {
	if e.over {
		return 0
	}
	if e.lost[source] == lostReset {
		return e.resetBeforeEnd(source)
	}
	e.note(source.closed())
	switch e.flows[source] {
	case flowing:
		return e.finish(source)
	case blocked:
		e.flows[source] = ending
	case discarding:
		e.flows[source] = discarded
		return e.settle(0)
	}
	return 0
}

// resetBeforeEnd: a read of a source has returned an error.
func (e *ends) resetBeforeEnd(source Side) (out output) {
	if e.over {
		return 0
	}
	e.noteReset(source)
	switch e.flows[source] {
	case flowing:
		out = e.flush(source)
	case blocked:
		e.flows[source] = failing
	case discarding:
		e.flows[source] = discarded
	}
	return e.lose(source, out)
}

// resetAfterEnd: the socket of a side whose stream has ended has an error.
func (e *ends) resetAfterEnd(side Side) output {
	if e.over {
		return 0
	}
	e.noteReset(side)
	return e.lose(side, 0)
}

// writeFailed: a write to a side, or a FIN, has failed. reset says that the error
// was that of a connection that its peer had not finished (Linux: not EPIPE). The
// mover then reads the side to the end of its stream, once its sink has room.
func (e *ends) writeFailed(side Side, reset bool) output {
	if e.over {
		return 0
	}
	e.noteReset(side)
	if e.lost[side] == notLost {
		e.lost[side] = lostClosed
		if reset && !e.flows[side].sourceEnded() {
			e.lost[side] = lostReset
		}
	}
	return e.lose(side, 0)
}

// acked: the sink of a source that was reset has acknowledged all bytes, or has
// not done so in time.
func (e *ends) acked(source Side) output {
	if e.over {
		return 0
	}
	if e.flows[source] != flushing {
		return 0
	}
	return e.close()
}

// expire: the relay was idle for its idle timeout. owed says by side whether
// bytes for it are left: held by the mover, unread from its source, or not
// acknowledged.
func (e *ends) expire(owed [2]bool) output {
	if e.over {
		return 0
	}
	if e.reason != ClientReset && e.reason != BackendReset {
		e.reason = IdleTimeout
	}
	e.manner, e.owed = orderly, owed
	return e.close()
}

// cannotFinish: the FIN that sendFinish asked for cannot be sent, because the
// side has no half-close or does not read. The end of one direction is then the
// end of both. owed
// says by side whether bytes for it have not reached its socket.
func (e *ends) cannotFinish(owed [2]bool) output {
	if e.over {
		return 0
	}
	e.manner, e.owed = orderly, owed
	return e.close()
}

// cut: the relay is ended from outside.
func (e *ends) cut(reason Reason) output {
	if e.over {
		return 0
	}
	e.reason, e.manner = reason, abrupt
	return e.close()
}

// closing is how a side is closed at the end of a relay.
type closing uint8

const (
	closeFinished closing = iota // it was sent a FIN, or is gone: close it
	closeWithFIN                 // send a FIN and close it
	closeWithRST                 // reset it
)

// closing returns how to close a side of a relay that is over.
func (e *ends) closing(side Side) closing {
	switch inflow := e.flows[side.other()]; {
	case e.manner == abrupt:
		return closeWithRST
	case inflow == finished:
		return closeFinished
	case e.manner == orderly && inflow == flowing && !e.owed[side]:
		return closeWithFIN
	default:
		return closeWithRST
	}
}

// finish passes the end of a source on.
func (e *ends) finish(source Side) output {
	e.flows[source] = finished
	return e.settle(sendFinish)
}

// flush waits until what a source had sent before its reset has arrived.
func (e *ends) flush(source Side) output {
	e.flows[source] = flushing
	return awaitAck
}

// lose stops the flow to a side that takes no more bytes.
func (e *ends) lose(side Side, out output) output {
	inflow := &e.flows[side.other()]
	if inflow.holds() {
		out |= dropHeld
	}
	switch *inflow {
	case flowing, blocked:
		*inflow = discarding
	case ending, failing, flushing:
		*inflow = discarded
	}
	return e.settle(out)
}

// settle adds closeBoth to out once nothing is left to do: each direction has
// passed on its end, or has lost its sink, and no reset waits to be sent.
func (e *ends) settle(out output) output {
	done := func(f flow) bool { return f == finished || f == discarded }
	gone := func(f flow) bool { return f == discarding || f == discarded }
	up, down := e.flows[ClientSide], e.flows[BackendSide]
	if done(up) && done(down) || gone(up) && gone(down) {
		out |= e.close()
	}
	return out
}

func (e *ends) close() output {
	e.over = true
	return closeBoth
}

// note keeps the first reason.
func (e *ends) note(reason Reason) {
	if e.reason == "" {
		e.reason = reason
	}
}

// noteReset keeps the first reset, which outranks an orderly end.
func (e *ends) noteReset(side Side) {
	if e.reason != ClientReset && e.reason != BackendReset {
		e.reason = side.reset()
	}
}

// hidesReset reports whether the end of a source's stream is that of a reset. A
// socket whose both directions are down (closed), without a pending error
// (failed) and without a FIN from this side, was reset, and a write has returned
// the error.
func (e *ends) hidesReset(source Side, failed, closed bool) bool {
	return closed && !failed && e.lost[source] == notLost && e.flows[source.other()] != finished
}
