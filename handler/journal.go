package handler

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/async-relay/caddy-relay/upstream"
)

// Kind is what an [Entry] is about.
type Kind string

// The kinds of entries.
const (
	KindStrike   Kind = "strike"   // the first; the second is the demotion
	KindDemotion Kind = "demotion" // to the end of the queue, if it was not there
	KindRecovery Kind = "recovery"
	KindReset    Kind = "reset"
	KindDrain    Kind = "drain"
	KindResume   Kind = "resume"
	KindFailback Kind = "failback"
	KindDNS      Kind = "dns"
	KindReload   Kind = "reload"
)

// Entry is one thing that happened to the queue of a service. What does not
// apply to its kind is empty.
type Entry struct {
	Time    time.Time
	Kind    Kind
	Network string   // "tcp" or "udp"
	Backend string   // as configured
	Address string   // the one that was tried
	Cause   string   // an error, or what else explains it
	By      string   // a client's address, "health check", or where an admin request came from
	Order   []string // the new one, where it changed; not to be edited
}

// journalSize is how many entries a journal holds.
const journalSize = 256

// Journal keeps the latest entries of a service: why its queue stands as it
// does. The zero value is ready, and all methods may be called by any number
// of goroutines.
type Journal struct {
	mu   sync.Mutex // guards what follows
	ring []Entry    // grows to its full size, which it has room for from the first entry on
	next int        // where the oldest is, once it is full
}

// Add writes an entry down, in place of the oldest if the journal is full. An
// entry without a time is of now.
func (j *Journal) Add(e Entry) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	if j.ring == nil {
		j.ring = make([]Entry, 0, journalSize)
	}
	if len(j.ring) < journalSize {
		j.ring = append(j.ring, e)
		return
	}
	j.ring[j.next] = e
	j.next = (j.next + 1) % journalSize
}

// Entries are those the journal holds, the oldest first.
func (j *Journal) Entries() []Entry {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Concat(j.ring[j.next:], j.ring[:j.next])
}

// booked writes down what the report of an attempt changed, if anything. by is
// the client, or the health check.
func (j *Journal) booked(change upstream.Change, o outcome, n upstream.Network, by fmt.Stringer) {
	e := Entry{Network: n.String(), Backend: o.attempt.Backend.Text, Order: change.Order}
	switch {
	case change.Strike == 1:
		e.Kind = KindStrike
	case change.Demoted:
		e.Kind = KindDemotion
	case change.Recovered:
		e.Kind, e.Cause = KindRecovery, fmt.Sprint("down for ", change.DownFor.Round(time.Millisecond))
	default:
		return
	}
	e.By = by.String()
	if o.addr.IsValid() {
		e.Address = netip.AddrPortFrom(o.addr, o.attempt.Backend.Port).String()
	}
	if o.err != nil {
		e.Cause = o.err.Error()
	}
	j.Add(e)
}

// String is the entry as one sentence.
func (e Entry) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", e.Time.UTC().Format(time.RFC3339), e.what())
	details := []string{e.Network}
	if !strings.Contains(e.Cause, e.Address) {
		details = append(details, e.Address)
	}
	details = slices.DeleteFunc(append(details, e.Cause), func(s string) bool { return s == "" })
	if len(details) > 0 {
		fmt.Fprintf(&b, " (%s)", strings.Join(details, ", "))
	}
	b.WriteString(e.by())
	if e.Order != nil {
		fmt.Fprintf(&b, "; order %s", strings.Join(e.Order, ", "))
	}
	return b.String()
}

func (e Entry) what() string {
	switch e.Kind {
	case KindStrike:
		return "first strike: " + e.Backend + " is asked again at once"
	case KindDemotion:
		if e.Order == nil {
			return "second strike: " + e.Backend + " is down, the order stays"
		}
		return "second strike: " + e.Backend + " moved to the end"
	case KindRecovery:
		return "recovery: " + e.Backend + " works again, the order stays"
	case KindReset:
		return "reset: configured order, no strikes, nobody down"
	case KindDrain:
		return "drain: " + e.Backend + " is sent nobody new"
	case KindResume:
		return "resume: " + e.Backend + " takes new clients again"
	case KindFailback:
		return "failback: " + e.Backend + " is well and back in its configured place"
	case KindDNS:
		return "dns: " + e.Backend + " has other addresses"
	case KindReload:
		return "reload: other settings are in force"
	default:
		return string(e.Kind) + ": " + e.Backend
	}
}

// by says who met it or asked for it.
func (e Entry) by() string {
	switch {
	case e.By == "":
		return ""
	case e.By == healthClient:
		return ", met by the " + healthClient
	case e.Kind == KindStrike, e.Kind == KindDemotion, e.Kind == KindRecovery:
		return ", met by client " + e.By
	default:
		return ", asked for by " + e.By
	}
}
