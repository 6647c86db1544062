package handler

import (
	"context"
	"net/netip"
	"time"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/internal/dgram"
	"github.com/async-relay/caddy-relay/internal/dial"
	"github.com/async-relay/caddy-relay/internal/stream"
)

// Resolver resolves the names of backends. Package resolver's cache implements
// it. Returned slices are never empty and must not be changed.
type Resolver interface {
	// Cached returns the cached addresses of a host. It does not block.
	Cached(host string) (addrs []netip.Addr, ok bool)
	// Lookup returns the cached addresses or queries DNS. If the query takes
	// longer than patience and there is a stale answer, it returns that one.
	Lookup(ctx context.Context, host string, patience time.Duration) ([]netip.Addr, error)
	// Refresh drops the cached addresses and queries DNS, unless they are younger
	// than since. patience is that of Lookup.
	Refresh(ctx context.Context, host string, since time.Time, patience time.Duration) ([]netip.Addr, error)
}

// Options are the settings of a [Relay]. A field is required unless its comment
// gives a meaning to its zero value.
type Options struct {
	ConnectTimeout  time.Duration  // limit of one attempt on one backend, including the lookup
	IdleTimeout     time.Duration  // a relay ends when nothing has passed in either direction for this long
	UDPReplyTimeout time.Duration  // a UDP backend that answers nothing for this long has failed; 0: never
	UDPResponses    int            // a UDP session ends after this many answers to each datagram; 0: never
	CutDown         bool           // a demotion ends the backend's TCP relays and moves its UDP sessions
	Hold            time.Duration  // a client that no backend accepts waits this long for one to recover; 0: not at all
	FirstByte       time.Duration  // TCP: a backend that sends no byte for this long after the client's first has failed; 0: never
	Rescue          int            // TCP: bytes of a client that are kept for the next backend until the first byte; 0: none
	RescueMemory    *stream.Memory // bounds the kept bytes of all relays that share it; nil: one of its own
	Hedge           time.Duration  // TCP: an attempt without a result for this long gets a companion on the next backend; 0: never
	MaxUDPSessions  int            // limit of the service's UDP sessions, below that of the budget; 0: none
	Resolver        Resolver
	UDP             dgram.Engine  // opens the sockets of UDP sessions; nil: dgram.Goroutines
	TCP             stream.Engine // moves the bytes of TCP relays; nil: goroutines
	Backlogs        *Backlogs     // bounds the memory of unanswered datagrams of all relays that share it; nil: one of its own
	Log             *zap.Logger
	Loops           *Loops // shared by all relays of the process; nil: loops are not found

	Clients             *Clients // which clients are served; nil: all
	MaxConnections      int      // limit of the service's concurrent relays, TCP and UDP together; 0: none
	MaxConnectionsPerIP int      // limit of the concurrent relays of one client address; 0: none

	AccessLog          *zap.Logger   // gets a line at the end of each TCP relay; nil: none
	AccessLogUDP       bool          // AccessLog also gets a line at the end of each UDP session
	KeepAlive          time.Duration // idle time and interval of TCP keep-alive probes to both sides, whole seconds; 0: none
	ProxyProtocol      ProxyProtocol // the header that tells backends the client's address
	ProxyProtocolEvery bool          // UDP: the header precedes every datagram instead of a session's first
}

// Relay serves clients of a service with one set of settings. All methods may
// be called by any number of goroutines.
type Relay struct {
	service *Service
	opts    Options
	log     *zap.Logger   // with the service's name
	wheel   *stream.Wheel // ends idle TCP relays
	retired bool          // set under Service.mu and sessions.mu, read under one of them
	lookups lookups       // of UDP sessions
}

// New returns a relay for the service. It runs no goroutine before the first
// client.
func New(service *Service, opts Options) *Relay {
	if opts.UDP == nil {
		opts.UDP = dgram.Goroutines{}
	}
	if opts.RescueMemory == nil {
		opts.RescueMemory = stream.NewMemory(RescueLimit)
	}
	if opts.Backlogs == nil {
		opts.Backlogs = NewBacklogs(BacklogLimit)
	}
	return &Relay{
		service: service,
		opts:    opts,
		log:     opts.Log.With(zap.String("service", service.Name)),
		wheel:   stream.NewWheel(opts.IdleTimeout),
	}
}

// Retire makes the relay take no client from now on. Clients that it has taken
// continue. When Retire returns, they all count in [Service.Active] or in
// [Service.Idle].
func (r *Relay) Retire() {
	s := r.service
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions.mu.Lock()
	defer s.sessions.mu.Unlock()
	r.retired = true
}

func (r *Relay) isRetired() bool {
	r.service.mu.Lock()
	defer r.service.mu.Unlock()
	return r.retired
}

// dialer returns what connects to backends over TCP.
func (r *Relay) dialer() dial.Dialer {
	return dial.Dialer{KeepAlive: r.opts.KeepAlive, MakeRoom: r.service.sessions.budget.FreeDescriptor}
}

// patience returns how long a lookup may take before a stale answer is used, so
// that a hanging DNS server does not use up the time of an attempt.
func (r *Relay) patience() time.Duration {
	return min(time.Second, r.opts.ConnectTimeout/4)
}
