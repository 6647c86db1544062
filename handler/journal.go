package handler

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/async-relay/caddy-relay/upstream"
)

// Kind names what an [Entry] reports.
type Kind string

// The kinds of entries.
const (
	KindStrike   Kind = "strike"   // the first strike; the second is the demotion
	KindDemotion Kind = "demotion" // to the end of the queue, unless the backend was there
	KindRecovery Kind = "recovery"
	KindLocal    Kind = "local" // an attempt failed on this machine
	KindReset    Kind = "reset"
	KindDrain    Kind = "drain"
	KindResume   Kind = "resume"
	KindFailback Kind = "failback"
	KindDNS      Kind = "dns"
	KindBackends Kind = "backends" // the targets of an SRV backend changed
	KindReload   Kind = "reload"
	KindRestore  Kind = "restore"     // the state of an earlier process is used
	KindCut      Kind = "cut"         // clients were taken away from a backend
	KindDrill    Kind = "drill"       // faults are injected into attempts on a backend
	KindDrillEnd Kind = "drill_ended" // the receipt of a drill
	KindHold     Kind = "hold"        // new clients wait
	KindRelease  Kind = "release"     // the end of a hold
	KindSuspect  Kind = "suspect"     // another instance of the relay has demoted a backend
	KindFlush    Kind = "flush"       // the addresses of a backend's name are looked up at its next use
)

// Entry is one change of the queue of a service, or of what it depends on.
// Fields that do not apply to the kind are empty.
type Entry struct {
	Time    time.Time
	Kind    Kind
	Network string   // "tcp" or "udp"
	Backend string   // as configured
	Address string   // the address that was tried
	Cause   string   // an error, or another explanation
	By      string   // a client's address, "health check", or where an admin request came from
	Order   []string // the new order, if it changed; must not be modified
	ByCheck bool     // only a passed health check ends the strike or down
}

// journalSize is the number of entries that a journal holds.
const journalSize = 256

// Journal keeps the latest entries of a service, which explain the state of its
// queue. The zero value is ready for use. All methods may be called
// concurrently.
type Journal struct {
	// mu guards the fields below. A change of the queue and its entry are made
	// in one step under mu, so that the entries stand in the order of the
	// changes; it is taken before the pool's own lock.
	mu    sync.Mutex
	ring  []Entry // allocated in full with the first entry
	next  int     // index of the oldest entry, once the ring is full
	added uint64  // number of entries ever added
}

// Add appends an entry, in place of the oldest one if the journal is full. An
// entry without a time gets the current time.
func (j *Journal) Add(e Entry) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.addLocked(e)
}

func (j *Journal) addLocked(e Entry) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	if j.ring == nil {
		j.ring = make([]Entry, 0, journalSize)
	}
	j.added++
	if len(j.ring) < journalSize {
		j.ring = append(j.ring, e)
		return
	}
	j.ring[j.next] = e
	j.next = (j.next + 1) % journalSize
}

// Entries returns a copy of the entries, the oldest first.
func (j *Journal) Entries() []Entry {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Concat(j.ring[j.next:], j.ring[:j.next])
}

// Added returns the number of entries that were ever added.
func (j *Journal) Added() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.added
}

// After returns a copy of the entries that were added after the first n, the
// oldest first, as far as the journal still holds them.
func (j *Journal) After(n uint64) []Entry {
	j.mu.Lock()
	defer j.mu.Unlock()
	entries := slices.Concat(j.ring[j.next:], j.ring[:j.next])
	if n >= j.added {
		return nil
	}
	return entries[max(0, len(entries)-int(min(j.added-n, journalSize))):]
}

// addAttemptLocked adds an entry if the result of an attempt was a strike, a
// demotion or a recovery. by is the client or the health check.
func (j *Journal) addAttemptLocked(change upstream.Change, o outcome, n upstream.Network, by fmt.Stringer) {
	e := Entry{Network: n.String(), Backend: o.attempt.Backend.Text, Order: change.Order}
	switch {
	case change.Strike == 1:
		e.Kind, e.ByCheck = KindStrike, change.ByCheck
	case change.Demoted:
		e.Kind, e.ByCheck = KindDemotion, change.ByCheck
	case change.Recovered:
		e.Kind, e.Cause = KindRecovery, fmt.Sprint("down for ", change.DownFor.Round(time.Millisecond))
	default:
		return
	}
	e.By = by.String()
	if addr := o.at(); addr.IsValid() {
		e.Address = addr.String()
	}
	if o.err != nil {
		e.Cause = o.err.Error()
	}
	j.addLocked(e)
}

// String returns the entry as one sentence.
func (e Entry) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", e.Time.UTC().Format(time.RFC3339), e.summary())
	details := []string{e.Network}
	if !strings.Contains(e.Cause, e.Address) {
		details = append(details, e.Address)
	}
	details = slices.DeleteFunc(append(details, e.Cause), func(s string) bool { return s == "" })
	if len(details) > 0 {
		fmt.Fprintf(&b, " (%s)", strings.Join(details, ", "))
	}
	b.WriteString(e.source())
	if e.Order != nil {
		fmt.Fprintf(&b, "; order %s", strings.Join(e.Order, ", "))
	}
	return b.String()
}

// summary returns the beginning of the sentence: the kind and what it means for
// the backend.
func (e Entry) summary() string {
	switch e.Kind {
	case KindStrike:
		return "first strike: " + e.Backend + " is retried at once"
	case KindDemotion:
		text := "second strike: " + e.Backend + " moved to the end"
		if e.Order == nil {
			text = "second strike: " + e.Backend + " is down, order unchanged"
		}
		if e.ByCheck {
			text += ", until a health check passes"
		}
		return text
	case KindRecovery:
		return "recovery: " + e.Backend + " works again, order unchanged"
	case KindLocal:
		return "local failure: this machine cannot reach " + e.Backend + ", which gets no strike"
	case KindReset:
		return "reset: configured order, no strikes, none down"
	case KindDrain:
		return "drain: " + e.Backend + " gets no new clients"
	case KindResume:
		return "resume: " + e.Backend + " gets new clients again"
	case KindFailback:
		return "failback: " + e.Backend + " is healthy and back in its configured position"
	case KindDNS:
		return "dns: addresses of " + e.Backend + " changed"
	case KindBackends:
		return "backends: targets of " + e.Backend + " changed"
	case KindCut:
		return "cut: clients left " + e.Backend
	case KindDrill:
		return "drill: faults are injected into new relays to " + e.Backend
	case KindDrillEnd:
		return "drill ended: " + e.Backend
	case KindHold:
		return "hold: new clients wait"
	case KindRelease:
		return "release: new clients are served again"
	case KindRestore:
		return "restore: the state of an earlier process is used"
	case KindSuspect:
		return "suspect: " + e.Backend + " was demoted by another node, the next client tries it briefly"
	case KindReload:
		return "reload: settings changed"
	case KindFlush:
		return "flush: " + e.Backend + " is looked up at its next use"
	default:
		return string(e.Kind) + ": " + e.Backend
	}
}

// source returns the part of the sentence that names the client, the health
// check or the admin request behind the entry.
func (e Entry) source() string {
	switch {
	case e.By == "":
		return ""
	case e.By == healthCheckName:
		return ", seen by the " + healthCheckName
	case e.Kind == KindSuspect:
		return ", seen by " + e.By
	case e.By == heldClientsName:
		return ", seen by attempts for " + heldClientsName
	case e.Kind == KindStrike, e.Kind == KindDemotion, e.Kind == KindRecovery, e.Kind == KindLocal:
		return ", seen by client " + e.By
	default:
		return ", requested by " + e.By
	}
}
