package handler

import (
	"math"
	"net"
	"net/netip"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/async-relay/caddy-relay/internal/stream"
	"github.com/async-relay/caddy-relay/upstream"
)

// record holds what the access log reports about a relay.
type record struct {
	network            upstream.Network
	client, local      net.Addr
	backend            string
	address            netip.AddrPort
	tried              tried
	dialled            time.Duration
	held               time.Duration // the client waited for a backend to recover
	began              time.Time
	bytesUp, bytesDown int64
	upN, downN         int64
	why                stream.Reason
	err                error
}

// tried lists the attempts of a relay, for the access log.
type tried []attempted

// attempted is the result of one attempt.
type attempted struct {
	backend string
	address string
	err     error
	took    time.Duration
	hedged  bool // started in parallel with a slow attempt
}

func (t *tried) add(o outcome) {
	a := attempted{backend: o.attempt.Backend.Text, err: o.err, took: o.took, hedged: o.hedged}
	if addr := o.at(); addr.IsValid() {
		a.address = addr.String()
	}
	*t = append(*t, a)
}

// MarshalLogArray implements zapcore.ArrayMarshaler.
func (t tried) MarshalLogArray(list zapcore.ArrayEncoder) error {
	for _, a := range t {
		if err := list.AppendObject(a); err != nil {
			return err
		}
	}
	return nil
}

// MarshalLogObject implements zapcore.ObjectMarshaler.
func (a attempted) MarshalLogObject(o zapcore.ObjectEncoder) error {
	o.AddString("backend", a.backend)
	if a.address != "" {
		o.AddString("address", a.address)
	}
	if a.err != nil {
		o.AddString("error", a.err.Error())
	}
	o.AddFloat64("ms", Milliseconds(a.took))
	if a.hedged {
		o.AddBool("hedged", true)
	}
	return nil
}

// Milliseconds returns d in milliseconds, rounded to a microsecond.
func Milliseconds(d time.Duration) float64 { return math.Round(d.Seconds()*1e6) / 1e3 }

// logs reports whether relays of network n get a line in the access log.
func (r *Relay) logs(n upstream.Network) bool {
	return r.opts.AccessLog != nil && (n == upstream.TCP || r.opts.AccessLogUDP)
}

// accessed writes the access log line of a relay that ended.
func (r *Relay) accessed(a record) {
	line := r.opts.AccessLog.Check(zapcore.InfoLevel, "relayed")
	if line == nil {
		return
	}
	fields := append(make([]zap.Field, 0, 18),
		zap.String("service", r.service.Name),
		zap.Stringer("network", a.network),
		zap.Stringer("client", a.client),
		zap.Stringer("local", a.local),
		zap.String("backend", a.backend))
	if a.address.IsValid() {
		fields = append(fields, zap.Stringer("address", a.address))
	}
	fields = append(fields,
		zap.Array("attempts", a.tried),
		zap.Float64("dial_ms", Milliseconds(a.dialled)))
	if a.held > 0 {
		fields = append(fields, zap.Float64("held_ms", Milliseconds(a.held)))
	}
	fields = append(fields,
		zap.Duration("duration", time.Since(a.began)),
		zap.Int64("bytes_up", a.bytesUp),
		zap.Int64("bytes_down", a.bytesDown))
	if a.network == upstream.UDP {
		fields = append(fields, zap.Int64("datagrams_up", a.upN), zap.Int64("datagrams_down", a.downN))
	}
	fields = append(fields, zap.String("reason", string(a.why)))
	if a.err != nil {
		fields = append(fields, zap.Error(a.err))
	}
	line.Write(fields...)
}
