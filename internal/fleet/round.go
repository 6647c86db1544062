package fleet

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
)

// round publishes what has changed here and reads what has changed elsewhere.
func (m *Member) round(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, roundTimeout)
	defer cancel()
	stalled := time.AfterFunc(stallAfter, func() { m.fail(errStalled, true) })
	err := recovered(func() error {
		if err := m.publish(ctx); err != nil {
			return err
		}
		return m.poll(ctx)
	})
	stalled.Stop()
	switch {
	case err == nil:
		m.succeed()
	case m.left.Load():
	default:
		m.fail(err, false)
	}
}

// recovered calls f. A panic of a storage module is an error.
func recovered(f func() error) (err error) {
	defer func() {
		if value := recover(); value != nil {
			err = fmt.Errorf("the storage panicked: %v", value)
		}
	}()
	return f()
}

// publish writes the record, if it has changed or a heartbeat is due.
func (m *Member) publish(ctx context.Context) error {
	now := m.now()
	m.mu.Lock()
	if m.restart {
		m.restart, m.lastMark, m.lastWrite, m.lastScan = false, "", time.Time{}, time.Time{}
	}
	changed, due := m.changed, now.Sub(m.lastWrite) >= m.state.Beat()
	m.changed = false // before observe: what changes from now on is in the next record
	m.mu.Unlock()
	if !changed && !due {
		return nil
	}
	services := m.observe()
	m.mu.Lock()
	seen := m.state.Observe(services)
	record := m.state.Record(now)
	m.mu.Unlock()
	m.lastTry = now
	s := m.counted()
	if err := s.Store(ctx, m.recordKey(m.id), record.encode()); err != nil {
		m.publishAgain()
		return fmt.Errorf("store the record of this node: %w", err)
	}
	if changed || seen {
		if err := m.mark(ctx, now); err != nil {
			m.publishAgain()
			return err
		}
	}
	m.lastWrite = now
	return nil
}

// poll reads the records that have changed, or all of them once in a beat.
func (m *Member) poll(ctx context.Context) error {
	list, err := m.loadMarks(ctx)
	if err != nil {
		return err
	}
	now := m.now()
	if err := m.confirm(ctx, list, now); err != nil {
		return err
	}
	m.mu.Lock()
	due := now.Sub(m.lastScan) >= m.state.Beat()
	m.mu.Unlock()
	changed, known := list.since(m.lastMark)
	all := due || !known
	if !all {
		if all, err = m.read(ctx, changed); err != nil {
			return err
		}
	}
	if all {
		if err := m.scan(ctx); err != nil {
			return err
		}
		m.lastScan = now
	}
	m.lastMark = list.newest()
	return nil
}

// read reads the records of some nodes. It reports whether one of them is gone or
// cannot be read.
func (m *Member) read(ctx context.Context, nodes []string) (gone bool, err error) {
	nodes = slices.DeleteFunc(nodes, func(node string) bool { return node == m.id || !plain(node) || strings.Contains(node, "/") })
	if len(nodes) == 0 {
		return false, nil
	}
	records, gone, err := m.load(ctx, nodes)
	if err != nil || gone {
		return true, nil // the scan shows whether it is the storage
	}
	return false, m.take(records, nil)
}

// take takes over records and does what the node must do because of them. all has the
// nodes of all records after a scan, or is nil. A member that leaves does nothing: its
// storage may have answered after Leave has returned.
func (m *Member) take(records []Record, all *[]string) error {
	m.acting.Lock()
	defer m.acting.Unlock()
	if m.left.Load() {
		return errLeft
	}
	m.carryOut(m.merge(records, all))
	return nil
}

// merge takes over records, and ends a scan unless all is nil.
func (m *Member) merge(records []Record, all *[]string) (actions []Action) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	for _, r := range records {
		actions = append(actions, m.state.Merge(r, now)...)
	}
	if all != nil {
		actions = append(actions, m.state.Scanned(*all, now)...)
	}
	return actions
}

// scan reads all records, and does what the node must do because of them.
func (m *Member) scan(ctx context.Context) error {
	nodes, err := m.list(ctx)
	if err != nil {
		return err
	}
	records, _, err := m.load(ctx, nodes)
	if err != nil {
		return err
	}
	now := m.now()
	m.mu.Lock()
	if interrupted := now.Sub(m.lastScan) > 2*m.state.Beat(); interrupted || !m.episode.began.IsZero() {
		m.state.Resume(now) // the others may have been alive all the time
	}
	m.mu.Unlock()
	if err := m.take(records, &nodes); err != nil {
		return err
	}
	m.mu.Lock()
	abandoned := m.state.Abandoned(abandonAfter, now)
	m.mu.Unlock()
	for _, node := range abandoned {
		_ = m.counted().Delete(ctx, m.recordKey(node)) // else at the next scan
	}
	return nil
}

// list returns the nodes that have a record, without this one.
func (m *Member) list(ctx context.Context) (nodes []string, err error) {
	var keys []string
	for range 3 {
		// The file system storage fails if a file that it has seen is removed meanwhile.
		// The list is incomplete then.
		if keys, err = m.counted().List(ctx, m.prefix("nodes"), false); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if err != nil {
		m.publishAgain() // this node's record may be gone
		return nil, fmt.Errorf("list the records of the fleet: %w", err)
	}
	own := false
	for _, k := range keys {
		node, ok := strings.CutSuffix(path.Base(k), ".json")
		switch {
		case ok && node == m.id:
			own = true
		case ok:
			nodes = append(nodes, node)
		}
	}
	if !own {
		m.publishAgain()
	}
	return nodes, nil
}

// load loads records. Those that cannot be loaded or decoded are left out, after a log
// line: one bad record does not keep this node from reading the others. It is an error
// if none can be loaded. gone reports whether a record does not exist or was not loaded.
func (m *Member) load(ctx context.Context, nodes []string) (records []Record, gone bool, err error) {
	s := m.counted()
	texts, errs := make([][]byte, len(nodes)), make([]error, len(nodes))
	next := make(chan int)
	var wait sync.WaitGroup
	for range min(loaders, len(nodes)) {
		wait.Go(func() { // ends with the list of nodes
			for i := range next {
				errs[i] = recovered(func() (err error) {
					texts[i], err = s.Load(ctx, m.recordKey(nodes[i]))
					return err
				})
			}
		})
	}
	for i := range nodes {
		next <- i
	}
	close(next)
	wait.Wait()
	loaded := false
	for i, node := range nodes {
		if errors.Is(errs[i], fs.ErrNotExist) {
			gone = true
			continue
		}
		if errs[i] != nil {
			gone, err = true, fmt.Errorf("load the record of node %s: %w", printable(node), errs[i])
			continue
		}
		loaded = true
	}
	if err != nil && (!loaded || ctx.Err() != nil) {
		return nil, gone, err
	}
	for i, node := range nodes {
		if errors.Is(errs[i], fs.ErrNotExist) {
			continue
		}
		if errs[i] != nil {
			m.ignored(node, "load", errs[i])
			continue
		}
		r, err := Decode(texts[i])
		if err == nil && r.Node != node {
			err = fmt.Errorf("it is the record of node %q", r.Node)
		}
		if err != nil {
			m.ignored(node, err.Error(), err)
			continue
		}
		records = append(records, r)
	}
	return records, gone, nil
}

// ignored logs that the record of a node is left out, once for each reason.
func (m *Member) ignored(node, reason string, err error) {
	if m.warned.first(node + " " + reason) {
		m.currentLog().Warn("fleet record ignored", zap.String("fleet", m.fleet), zap.String("node", printable(node)), zap.Error(err))
	}
}

// episode is a time in which the storage cannot be used.
type episode struct {
	began  time.Time
	failed int // rounds
	logged bool
	err    error // the latest
}

var (
	errStalled = errors.New("the storage does not answer")
	errLeft    = errors.New("the node has left the fleet")
)

// fail records a round that has failed, or that takes long. It logs one line in an
// episode.
func (m *Member) fail(err error, stalled bool) {
	m.mu.Lock()
	e := &m.episode
	if e.began.IsZero() {
		e.began = m.now()
	}
	e.err = err
	if !stalled {
		e.failed++
	}
	log := !e.logged && (stalled || e.failed >= maxFailed)
	e.logged = e.logged || log
	logger := m.log
	m.mu.Unlock()
	if log {
		logger.Warn("fleet storage unavailable, this node continues alone", zap.String("fleet", m.fleet), zap.Error(err))
	}
}

// succeed ends an episode.
func (m *Member) succeed() {
	m.mu.Lock()
	e, now := m.episode, m.now()
	m.episode = episode{}
	logger := m.log
	m.mu.Unlock()
	if e.logged {
		logger.Info("fleet storage available again", zap.String("fleet", m.fleet), zap.Duration("after", now.Sub(e.began)))
	}
}

// counted returns the storage, with its operations counted.
func (m *Member) counted() Storage {
	m.mu.Lock()
	defer m.mu.Unlock()
	return countedStorage{m, m.storage}
}

// countedStorage counts operations.
type countedStorage struct {
	of *Member
	Storage
}

func (s countedStorage) count(of *uint64, err error) {
	s.of.mu.Lock()
	defer s.of.mu.Unlock()
	*of++
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.of.counts.Failed++
	}
}

func (s countedStorage) Store(ctx context.Context, key string, value []byte) error {
	err := s.Storage.Store(ctx, key, value)
	s.count(&s.of.counts.Stores, err)
	return err
}

func (s countedStorage) Load(ctx context.Context, key string) ([]byte, error) {
	text, err := s.Storage.Load(ctx, key)
	s.count(&s.of.counts.Loads, err)
	return text, err
}

func (s countedStorage) Delete(ctx context.Context, key string) error {
	err := s.Storage.Delete(ctx, key)
	s.count(&s.of.counts.Deletes, err)
	return err
}

func (s countedStorage) List(ctx context.Context, prefix string, recursive bool) ([]string, error) {
	keys, err := s.Storage.List(ctx, prefix, recursive)
	s.count(&s.of.counts.Lists, err)
	return keys, err
}
