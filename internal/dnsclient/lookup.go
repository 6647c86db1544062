package dnsclient

import (
	"context"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// familyWait is how long a query for one address family may be unanswered when the
// other family has addresses. The lookup then continues without it.
const familyWait = 250 * time.Millisecond

// lookup is the state of one lookup. Go's resolver makes several exchanges for it:
// one for each name of the search list and each record type, and again after
// failures.
type lookup struct {
	// Set once.
	client       *Client
	ctx          context.Context
	host         string // as the caller has written it
	bothFamilies bool

	mu        sync.Mutex // guards the fields below
	questions map[question]*asked
	ttl       uint32 // least TTL of all answers
	answered  bool   // ttl is set
	server    string // that gave the latest reply
	errs      []error
}

type question struct {
	name  string
	qtype uint16
}

// asked is the state of one question.
type asked struct {
	good    bool          // a server has answered, maybe that there is nothing
	addrs   chan struct{} // closed when an answer has addresses
	closed  bool          // addrs is closed
	failure error         // of all servers of the client
}

// askedLocked returns the state of a question, and makes one if there is none.
func (l *lookup) askedLocked(q question) *asked {
	a := l.questions[q]
	if a == nil {
		a = &asked{addrs: make(chan struct{})}
		l.questions[q] = a
	}
	return a
}

// sibling returns the question for the other address family, and false if there is
// none.
func (l *lookup) sibling(q question) (question, bool) {
	switch {
	case l.bothFamilies && q.qtype == dns.TypeA:
		return question{q.name, dns.TypeAAAA}, true
	case l.bothFamilies && q.qtype == dns.TypeAAAA:
		return question{q.name, dns.TypeA}, true
	}
	return question{}, false
}

// dial is the Dial of Go's resolver. The connection is one exchange with the server
// at addr or, if the client has servers of its own, with those.
func (l *lookup) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if len(l.client.servers) > 0 {
		// Go's time limit for each server does not apply, because these servers
		// share the time of the lookup.
		return &conn{lookup: l, ctx: l.ctx, exchange: l.race}, nil
	}
	server := plainServer{addr: addr, tcp: network[:3] == "tcp"}
	return &conn{lookup: l, ctx: ctx, exchange: server.exchange}, nil
}

// race queries the servers of the client. Search domains do not apply to them, so
// names of the search list do not exist. The dot that disables the search list would
// also hide names without a dot that are in the hosts file. After they have all failed, the question
// fails at once: Go's resolver repeats it for each server of resolv.conf.
func (l *lookup) race(ctx context.Context, query []byte) (reply, error) {
	q, err := questionOf(query)
	if err != nil {
		return reply{}, err
	}
	if q.name != strings.ToLower(dns.Fqdn(l.host)) {
		return reply{msg: noSuchName(query)}, nil // a name of the search list
	}
	l.mu.Lock()
	failure := l.askedLocked(q).failure
	l.mu.Unlock()
	if failure != nil {
		return reply{}, failure
	}
	r, err := race(ctx, l.client.servers, query)
	if err != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.askedLocked(q).failure = err
		l.noteErrorLocked(err)
	}
	return r, err
}

// noteErrorLocked keeps the errors of servers. A and AAAA usually fail in the same
// way, which is kept once.
func (l *lookup) noteErrorLocked(err error) {
	all := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		all = joined.Unwrap()
	}
	for _, e := range all {
		known := false
		for _, k := range l.errs {
			known = known || k.Error() == e.Error()
		}
		if !known {
			l.errs = append(l.errs, e)
		}
	}
}

// ask makes one exchange. If the question for the other address family has been
// answered with addresses, it waits for familyWait only and then returns an answer
// without records.
func (l *lookup) ask(ctx context.Context, query []byte, exchange exchangeFunc) ([]byte, error) {
	q, err := questionOf(query)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var other chan struct{}
	if s, ok := l.sibling(q); ok {
		l.mu.Lock()
		other = l.askedLocked(s).addrs
		l.mu.Unlock()
	}
	type result struct {
		reply reply
		err   error
	}
	done := make(chan result, 1)
	go func() { // ends with the exchange or with ctx
		r, err := exchange(ctx, query)
		done <- result{r, err}
	}()
	var late <-chan time.Time
	for {
		select {
		case r := <-done:
			if r.err != nil {
				return nil, r.err
			}
			l.note(q, r.reply)
			return r.reply.msg, nil
		case <-other:
			other, late = nil, time.After(familyWait)
		case <-late:
			return emptyAnswer(query), nil
		}
	}
}

// note records what a reply says.
func (l *lookup) note(q question, r reply) {
	var msg dns.Msg
	if msg.Unpack(r.msg) != nil {
		return // Go's resolver rejects it
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.server != "" {
		l.server = r.server
	}
	a := l.askedLocked(q)
	if msg.Rcode == dns.RcodeSuccess || msg.Rcode == dns.RcodeNameError {
		a.good = true
	}
	for _, rr := range msg.Answer {
		header := rr.Header()
		ttl := header.Ttl - min(header.Ttl, r.age)
		if !l.answered || ttl < l.ttl {
			l.ttl, l.answered = ttl, true
		}
		if header.Rrtype == q.qtype && !a.closed {
			close(a.addrs)
			a.closed = true
		}
	}
}

// result returns the least TTL, and whether an address family is missing.
func (l *lookup) result() (ttl time.Duration, partial bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for q, a := range l.questions {
		if s, ok := l.sibling(q); ok && a.closed {
			other := l.questions[s]
			partial = partial || other == nil || !other.good
		}
	}
	return time.Duration(l.ttl) * time.Second, partial
}
