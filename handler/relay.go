package handler

import (
	"context"
	"net/netip"
	"time"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/internal/dgram"
	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/stream"
)

// Resolver is where names become addresses: package resolver's cache, seen
// from here. The slices it gives are neither to be edited nor empty.
type Resolver interface {
	// Cached answers from memory alone.
	Cached(host string) (addrs []netip.Addr, ok bool)
	// Lookup answers from memory or asks. If that takes longer than patience
	// and there is an older answer, that one is given.
	Lookup(ctx context.Context, host string, patience time.Duration) ([]netip.Addr, error)
	// Refresh drops what is known and asks afresh; an answer younger than
	// since is fresh enough.
	Refresh(ctx context.Context, host string, since time.Time, patience time.Duration) ([]netip.Addr, error)
}

// Options are the settings of a [Relay]. All are needed but those with a zero
// that says otherwise.
type Options struct {
	ConnectTimeout  time.Duration // of one attempt on one backend, lookup included
	IdleTimeout     time.Duration // nothing in either direction for this long ends a relay
	UDPReplyTimeout time.Duration // a UDP backend that answers nothing for this long has failed; 0: never
	UDPResponses    int           // a UDP session ends after this many answers to each datagram; 0: never
	MaxUDPSessions  int           // bound of the session table; 0: what the system has room for
	Resolver        Resolver
	UDP             dgram.Engine  // opens the sockets of UDP sessions; nil: dgram.Goroutines
	TCP             stream.Engine // moves the bytes of TCP relays; nil: goroutines
	Log             *zap.Logger

	MaxConnections      int // relays of the service at once, TCP and UDP together; 0: any number
	MaxConnectionsPerIP int // the same, for a client's address

	AccessLog          *zap.Logger   // gets a line as each TCP relay ends; nil: none
	AccessLogUDP       bool          // and as each UDP session does
	ProxyProtocol      ProxyProtocol // tells backends who the client is
	ProxyProtocolEvery bool          // in each datagram, not only in a session's first
}

// Relay serves clients of a service with one set of settings. All methods may
// be called by any number of goroutines.
type Relay struct {
	service *Service
	opts    Options
	log     *zap.Logger   // with the service's name
	wheel   *stream.Wheel // ends idle TCP relays
}

// New makes a relay for the service. Nothing starts until a client comes.
func New(service *Service, opts Options) *Relay {
	if opts.UDP == nil {
		opts.UDP = dgram.Goroutines{}
	}
	if opts.MaxUDPSessions == 0 {
		opts.MaxUDPSessions = netio.SessionLimit()
	}
	return &Relay{
		service: service,
		opts:    opts,
		log:     opts.Log.With(zap.String("service", service.Name)),
		wheel:   stream.NewWheel(opts.IdleTimeout),
	}
}

// patience is how long a lookup may take before an older answer is used
// instead: a DNS that hangs must not eat the time of an attempt.
func (r *Relay) patience() time.Duration {
	return min(time.Second, r.opts.ConnectTimeout/4)
}
