package handler

import (
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// floodEvery is how often what a flood of clients can trigger is logged, per
// service and kind.
const floodEvery = time.Second

// flood is a kind of event that clients can cause as often as they like.
type flood uint8

const (
	refusedTCP      flood = iota // no backend took the client
	refusedUDP                   // the same, for a session
	evicted                      // a session made room for another
	queueFull                    // a datagram found its session's queue full
	dropped                      // a datagram of a refused client, or one nobody could take
	tooManyTCP                   // max_connections are at work
	tooManyUDP                   // the same, for a session
	tooManyOfOneTCP              // max_connections_per_ip are
	tooManyOfOneUDP              // the same, for a session
	lackOfOwn                    // this machine has no descriptor, memory or port left
	floodsLength                 // how many kinds there are
)

var floodLines = [floodsLength]struct {
	level   zapcore.Level
	message string
}{
	refusedTCP:      {zapcore.ErrorLevel, "client refused"},
	refusedUDP:      {zapcore.ErrorLevel, "client refused"},
	evicted:         {zapcore.WarnLevel, "session evicted"},
	queueFull:       {zapcore.WarnLevel, "datagrams dropped, queue full"},
	dropped:         {zapcore.DebugLevel, "datagrams dropped"},
	tooManyTCP:      {zapcore.WarnLevel, "client refused, too many connections"},
	tooManyUDP:      {zapcore.WarnLevel, "client refused, too many connections"},
	tooManyOfOneTCP: {zapcore.WarnLevel, "client refused, too many connections from its address"},
	tooManyOfOneUDP: {zapcore.WarnLevel, "client refused, too many connections from its address"},
	lackOfOwn:       {zapcore.WarnLevel, "out of descriptors, memory or ports"},
}

// floods counts events and lets one line a second through for each kind. The
// first of a quiet time is written at once, the rest with it or after it as a
// count.
type floods struct {
	mu    sync.Mutex
	kinds [floodsLength]struct {
		total   uint64 // since the service began
		unsaid  uint64 // since the last line
		waiting bool   // a line is due at the end of this second
		last    []zap.Field
	}
}

// note counts an event. The fields are those of the latest one in the line.
func (f *floods) note(log *zap.Logger, kind flood, fields ...zap.Field) {
	f.mu.Lock()
	k := &f.kinds[kind]
	k.total++
	k.unsaid++
	k.last = fields
	first := !k.waiting
	if first {
		k.waiting = true
		time.AfterFunc(floodEvery, func() { f.flush(log, kind) })
	}
	f.mu.Unlock()
	if first {
		f.write(log, kind)
	}
}

// flush ends a second: what came in it is written and opens the next one.
func (f *floods) flush(log *zap.Logger, kind flood) {
	f.mu.Lock()
	k := &f.kinds[kind]
	more := k.unsaid > 0
	k.waiting = more
	if more {
		time.AfterFunc(floodEvery, func() { f.flush(log, kind) })
	}
	f.mu.Unlock()
	if more {
		f.write(log, kind)
	}
}

func (f *floods) write(log *zap.Logger, kind flood) {
	f.mu.Lock()
	k := &f.kinds[kind]
	count, fields := k.unsaid, k.last
	k.unsaid, k.last = 0, nil
	f.mu.Unlock()
	if count == 0 {
		return // another has said it meanwhile
	}
	line := floodLines[kind]
	if entry := log.Check(line.level, line.message); entry != nil {
		entry.Write(append(fields[:len(fields):len(fields)], zap.Uint64("count", count))...)
	}
}

// totalOf counts the events of a kind since the service began.
func (f *floods) totalOf(kind flood) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.kinds[kind].total
}
