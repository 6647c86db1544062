package handler

import (
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/async-relay/caddy-relay/internal/loglimit"
)

// flood is a kind of event that clients can cause as often as they like.
type flood uint8

const (
	refusedTCP    flood = iota // no backend accepted the client
	refusedUDP                 // no backend answered the session
	evicted                    // a session was ended to make room for another
	queueFull                  // a datagram was dropped: its session's queue is full
	backlogsFull               // a datagram was dropped: the backlogs of all sessions are at their limit
	dropped                    // a datagram was dropped: its client was refused, or it could not be sent
	icmpIgnored                // an ICMP error came from a host that cannot know what it claims
	limitTCP                   // the service is at max_connections
	limitUDP                   // as limitTCP, for a session
	perIPLimitTCP              // the client's address is at max_connections_per_ip
	perIPLimitUDP              // as perIPLimitTCP, for a session
	deniedTCP                  // the client's address is refused by allow or deny
	deniedUDP                  // as deniedTCP, for a datagram
	looped                     // an attempt would have led back to the relay
	sameHostTCP                // too many TCP relays have a client on the backend's machine
	sameHostUDP                // as sameHostTCP, for unanswered sessions
	exhausted                  // this machine is out of descriptors, memory or ports
	heldTCP                    // no backend accepted the client, which waits for one
	heldUDP                    // as heldTCP, for a session
	failedLocally              // an attempt failed on this machine, the first one of an episode
	floodKinds                 // the number of kinds
)

var floodLines = [floodKinds]struct {
	level   zapcore.Level
	message string
}{
	refusedTCP:    {zapcore.ErrorLevel, "client refused"},
	refusedUDP:    {zapcore.ErrorLevel, "client refused"},
	evicted:       {zapcore.WarnLevel, "session evicted"},
	queueFull:     {zapcore.WarnLevel, "datagrams dropped, queue full"},
	backlogsFull:  {zapcore.WarnLevel, "datagrams dropped, backlog limit reached"},
	dropped:       {zapcore.DebugLevel, "datagrams dropped"},
	icmpIgnored:   {zapcore.WarnLevel, "ICMP error ignored, not from the backend"},
	limitTCP:      {zapcore.WarnLevel, "client refused, too many connections"},
	limitUDP:      {zapcore.WarnLevel, "client refused, too many connections"},
	perIPLimitTCP: {zapcore.WarnLevel, "client refused, too many connections from its address"},
	perIPLimitUDP: {zapcore.WarnLevel, "client refused, too many connections from its address"},
	deniedTCP:     {zapcore.WarnLevel, "client refused, address not allowed"},
	deniedUDP:     {zapcore.WarnLevel, "client refused, address not allowed"},
	heldTCP:       {zapcore.WarnLevel, "client held, no backend accepts it"},
	heldUDP:       {zapcore.WarnLevel, "client held, no backend accepts it"},
	looped:        {zapcore.ErrorLevel, "attempt refused, backend leads back to this relay"},
	sameHostTCP:   {zapcore.ErrorLevel, "client refused, too many from the backend's address"},
	sameHostUDP:   {zapcore.ErrorLevel, "client refused, too many from the backend's address"},
	failedLocally: {zapcore.WarnLevel, "attempt failed on this machine"},
	exhausted:     {zapcore.WarnLevel, "out of descriptors, memory or ports"},
}

// floods counts events and logs at most one line per second and kind; see
// [loglimit.Limiter].
type floods [floodKinds]loglimit.Limiter

// note counts an event and logs it, at once or later. A line has the fields of
// the latest event in it.
func (f *floods) note(log *zap.Logger, kind flood, fields ...zap.Field) {
	f.noteAbout(nil, log, kind, fields...)
}

// noteAbout is note with the fields of an object, see [loglimit.Limiter.LogAbout].
func (f *floods) noteAbout(about zapcore.ObjectMarshaler, log *zap.Logger, kind flood, fields ...zap.Field) {
	line := floodLines[kind]
	f[kind].LogAbout(about, log, line.level, line.message, 1, fields...)
}

// total returns how many events of a kind there were since the service started.
func (f *floods) total(kind flood) uint64 { return f[kind].Total() }
