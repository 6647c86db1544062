package fleet

import (
	"context"
	"math/rand/v2"
	"path"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// Times of a member's storage operations.
const (
	pollEvery    = time.Second            // others' changes are seen within this, and the time of the operations
	publishGap   = 300 * time.Millisecond // between two writes: further changes wait for the next one
	roundTimeout = 5 * time.Second        // of all storage operations of one round
	stallAfter   = 3 * time.Second        // a round that takes longer is logged while it lasts
	maxFailed    = 2                      // rounds in a row that may fail without a log line
	leaveTimeout = time.Second            // of the removal of the record
	abandonAfter = 10 * time.Minute       // the record of a node that vanished so long ago is deleted
	loaders      = 8                      // records that are loaded at the same time
)

// Storage is what a member needs of a storage; certmagic.Storage has it. A missing
// key is fs.ErrNotExist.
type Storage interface {
	Store(ctx context.Context, key string, value []byte) error
	Load(ctx context.Context, key string) ([]byte, error)
	Delete(ctx context.Context, key string) error
	List(ctx context.Context, prefix string, recursive bool) ([]string, error)
}

// Options are the settings of a [Member].
type Options struct {
	Fleet   string // the name of the fleet
	ID      string // of this node, unique in the fleet
	Storage Storage
	Log     *zap.Logger

	// Observe returns what this node has and sees. Act does what the node must do
	// because of another one; it is not called for Joined, Left and Vanished, which
	// the member logs. The member's goroutine calls both.
	Observe func() []Service
	Act     func(Action)

	Now func() time.Time // nil: time.Now
}

// Member is the membership of this node in a fleet. All methods may be called
// concurrently. It reads and writes the storage on a goroutine of its own.
type Member struct {
	fleet, id string
	observe   func() []Service
	act       func(Action)
	now       func() time.Time
	wake      chan struct{} // has a value when the goroutine is to publish
	cancel    context.CancelFunc
	left      atomic.Bool   // set by Leave: nothing is done for others any more
	done      chan struct{} // closed at the end of the goroutine

	acting sync.Mutex // held while operations are done and actions are carried out; taken before mu

	mu      sync.Mutex // guards the fields below; not held during storage operations
	state   *State
	storage Storage
	log     *zap.Logger
	changed bool // since the last write
	restart bool // the storage is another one
	episode episode
	counts  Counts

	// The fields of the goroutine.
	lastWrite, lastScan time.Time
	lastTry             time.Time // of a write, also of one that has failed
	lastMark            string    // the newest mark that was read, see marks.go
	marked              uint64    // number of marks that this node has made
	ownMark             string    // its latest one; "": no other node can overwrite it any more
	ownOlder            marks     // those after it when it was made
	confirmUntil        time.Time // set with ownMark
	warned              warnings
}

// Counts are the storage operations of a member since it began.
type Counts struct {
	Loads, Stores, Lists, Deletes uint64
	Failed                        uint64 // of all of these
}

// Join makes this node a member of a fleet, until Leave.
func Join(o Options) *Member {
	m := &Member{
		fleet: o.Fleet, id: o.ID, observe: o.Observe, act: o.Act, now: o.Now,
		wake: make(chan struct{}, 1), done: make(chan struct{}),
		state: NewState(o.ID), storage: o.Storage, log: o.Log, changed: true,
	}
	if m.now == nil {
		m.now = time.Now
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	m.log.Info("fleet joined", zap.String("fleet", m.fleet), zap.String("node", m.id))
	go m.run(ctx) // ends with Leave, once a storage operation in progress has returned
	return m
}

// Changed makes the member look at this node again, and publish what has changed. It
// does not block.
func (m *Member) Changed() {
	m.publishAgain()
	m.notify()
}

func (m *Member) notify() {
	select {
	case m.wake <- struct{}{}:
	default: // it is awake
	}
}

// publishAgain makes the next round write the record.
func (m *Member) publishAgain() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.changed = true
}

// Do carries out an operation of an operator by calling do, and publishes it if that
// returns true. No operation of another node is repeated meanwhile: the later one of
// the two wins here and there.
func (m *Member) Do(o Operation, do func() bool) {
	m.acting.Lock()
	defer m.acting.Unlock()
	if !do() {
		return
	}
	m.mu.Lock()
	m.state.Operate(o, m.now())
	m.changed = true
	m.mu.Unlock()
	m.notify()
}

// SetStorage replaces the storage and the log after a reload.
func (m *Member) SetStorage(storage Storage, log *zap.Logger) {
	m.mu.Lock()
	m.storage, m.log, m.changed, m.restart = storage, log, true, true
	m.mu.Unlock()
	m.notify()
}

// Stalled reports whether a storage operation does not return. SetStorage has no effect
// before it does.
func (m *Member) Stalled() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.episode.err == errStalled
}

// Leave removes the record of this node and ends the member. It returns before the
// end if a storage operation does not return within two seconds: the goroutine ends
// with that, and does nothing for other nodes any more.
func (m *Member) Leave() {
	m.left.Store(true)
	m.cancel()
	timer := time.NewTimer(2 * leaveTimeout)
	defer timer.Stop()
	select {
	case <-m.done:
	case <-timer.C:
	}
}

// Status describes the fleet as this node sees it.
type Status struct {
	Fleet, Node string
	Failing     error         // why the storage cannot be used; nil: it can
	FailingFor  time.Duration // set with Failing
	Peers       []Peer
	Counts      Counts
}

// Status returns the current status.
func (m *Member) Status() Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := Status{Fleet: m.fleet, Node: m.id, Peers: m.state.Peers(m.now()), Counts: m.counts}
	if m.episode.logged {
		s.Failing, s.FailingFor = m.episode.err, m.now().Sub(m.episode.began)
	}
	return s
}

// run makes rounds of storage operations until ctx ends.
func (m *Member) run(ctx context.Context) {
	defer close(m.done)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			m.leave()
			return
		case <-m.wake:
			// A change soon after a write waits, so that a storm of changes costs few
			// writes.
			if wait := publishGap - m.now().Sub(m.lastTry); wait > 0 {
				timer.Reset(wait)
				continue
			}
		case <-timer.C:
		}
		m.round(ctx)
		timer.Reset(pollEvery - rand.N(pollEvery/5))
	}
}

// prefix returns a key of this fleet.
func (m *Member) prefix(elements ...string) string {
	return path.Join(append([]string{"relay", "fleet", m.fleet}, elements...)...)
}

// recordKey returns the key of a node's record.
func (m *Member) recordKey(node string) string { return m.prefix("nodes", node+".json") }

// leave removes the record.
func (m *Member) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	_ = recovered(func() error {
		s := m.counted()
		if err := s.Delete(ctx, m.recordKey(m.id)); err != nil {
			return err // the record expires
		}
		return m.mark(ctx, m.now())
	})
	m.currentLog().Info("fleet left", zap.String("fleet", m.fleet), zap.String("node", m.id))
}

func (m *Member) currentLog() *zap.Logger {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.log
}

// carryOut does what the node must do because of others. The caller holds acting.
func (m *Member) carryOut(actions []Action) {
	log := m.currentLog()
	for _, a := range actions {
		switch a.Do {
		case Joined:
			log.Info("node joined the fleet", zap.String("fleet", m.fleet), zap.String("node", a.Node))
			m.welcome()
		case Left:
			log.Info("node left the fleet", zap.String("fleet", m.fleet), zap.String("node", a.Node))
		case Vanished:
			log.Warn("node vanished from the fleet", zap.String("fleet", m.fleet), zap.String("node", a.Node))
		default:
			m.act(a)
		}
	}
}

// welcome publishes how long holds and drills last, for a node that has joined: it
// cannot know the age of the record that it has read.
func (m *Member) welcome() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state.Temporary(m.now()) {
		m.changed = true
		m.notify()
	}
}

// warnings remembers what was logged once.
type warnings struct{ keys []string }

// maxWarnings bounds what is remembered, and so what foreign records can log.
const maxWarnings = 100

// first reports whether a key is new.
func (w *warnings) first(key string) bool {
	if len(w.keys) >= maxWarnings || slices.Contains(w.keys, key) {
		return false
	}
	w.keys = append(w.keys, key)
	return true
}
