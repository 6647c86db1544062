package handler

import (
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// floodInterval is the shortest time between two log lines of one kind of
// flood and one service.
const floodInterval = time.Second

// flood is a kind of event that clients can cause as often as they like.
type flood uint8

const (
	refusedTCP         flood = iota // no backend accepted the client
	refusedUDP                      // no backend answered the session
	evicted                         // a session was ended to make room for another
	queueFull                       // a datagram was dropped: its session's queue is full
	dropped                         // a datagram was dropped: its client was refused, or it could not be sent
	limitTCP                        // the service is at max_connections
	limitUDP                        // as limitTCP, for a session
	perIPLimitTCP                   // the client's address is at max_connections_per_ip
	perIPLimitUDP                   // as perIPLimitTCP, for a session
	resourcesExhausted              // this machine is out of descriptors, memory or ports
	floodKinds                      // the number of kinds
)

var floodLines = [floodKinds]struct {
	level   zapcore.Level
	message string
}{
	refusedTCP:         {zapcore.ErrorLevel, "client refused"},
	refusedUDP:         {zapcore.ErrorLevel, "client refused"},
	evicted:            {zapcore.WarnLevel, "session evicted"},
	queueFull:          {zapcore.WarnLevel, "datagrams dropped, queue full"},
	dropped:            {zapcore.DebugLevel, "datagrams dropped"},
	limitTCP:           {zapcore.WarnLevel, "client refused, too many connections"},
	limitUDP:           {zapcore.WarnLevel, "client refused, too many connections"},
	perIPLimitTCP:      {zapcore.WarnLevel, "client refused, too many connections from its address"},
	perIPLimitUDP:      {zapcore.WarnLevel, "client refused, too many connections from its address"},
	resourcesExhausted: {zapcore.WarnLevel, "out of descriptors, memory or ports"},
}

// floods counts events and logs at most one line per second and kind. The first
// event after a quiet second is logged at once; those that follow are logged at
// the end of each second, as one line with their count.
type floods struct {
	mu    sync.Mutex
	kinds [floodKinds]struct {
		total    uint64      // since the service started
		unlogged uint64      // since the latest line
		waiting  bool        // flush is due at the end of this second
		last     []zap.Field // of the latest unlogged event
	}
}

// note counts an event and logs it, at once or later. A line has the fields of
// the latest event in it.
func (f *floods) note(log *zap.Logger, kind flood, fields ...zap.Field) {
	f.mu.Lock()
	k := &f.kinds[kind]
	k.total++
	k.unlogged++
	k.last = fields
	first := !k.waiting
	if first {
		k.waiting = true
		time.AfterFunc(floodInterval, func() { f.flush(log, kind) })
	}
	f.mu.Unlock()
	if first {
		f.write(log, kind)
	}
}

// flush runs at the end of a second. If there were events in it, flush logs them
// and runs again after the next second.
func (f *floods) flush(log *zap.Logger, kind flood) {
	f.mu.Lock()
	k := &f.kinds[kind]
	more := k.unlogged > 0
	k.waiting = more
	if more {
		time.AfterFunc(floodInterval, func() { f.flush(log, kind) })
	}
	f.mu.Unlock()
	if more {
		f.write(log, kind)
	}
}

// write logs the unlogged events of a kind as one line.
func (f *floods) write(log *zap.Logger, kind flood) {
	f.mu.Lock()
	k := &f.kinds[kind]
	count, fields := k.unlogged, k.last
	k.unlogged, k.last = 0, nil
	f.mu.Unlock()
	if count == 0 {
		return // another goroutine logged them meanwhile
	}
	line := floodLines[kind]
	if entry := log.Check(line.level, line.message); entry != nil {
		entry.Write(append(fields[:len(fields):len(fields)], zap.Uint64("count", count))...)
	}
}

// total returns how many events of a kind there were since the service started.
func (f *floods) total(kind flood) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.kinds[kind].total
}
