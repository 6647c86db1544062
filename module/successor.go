package module

import "github.com/async-relay/caddy-relay/handler"

// This file serves the clients that reach a relay through the routes after Cleanup.
// layer4 accepted them before a reload, and its matchers have waited for their
// bytes since. A relay that was cleaned up does not serve them itself: its service
// may have ended, so that neither the exit nor a metric would know of them.

// serve passes a client to the relay that serves it: the relay of r or, after
// Cleanup, that of a successor. take returns false if the relay was retired.
func (r *Relay) serve(take func(*handler.Relay) (taken bool)) error {
	r.adopt()
	for taken := take(r.relay); !taken; {
		next, err := r.successor()
		if err != nil {
			return err
		}
		taken = take(next.relay)
		next.leave(next.service.retire(next.settings))
	}
	return nil
}

// successor returns a Relay of the same service whose relay is not retired. If a
// config has the service, that is the config's relay. Otherwise it is a new one
// with the settings of r. The caller ends it with leave.
func (r *Relay) successor() (*Relay, error) {
	opts := r.Options()
	dns, err := loadCache(opts)
	if err != nil {
		return nil, err
	}
	set := *r.settings
	set.dns, set.log = dns, processLog() // the log of r may be closed
	next := &Relay{Config: r.Config, dns: dns, settings: &set}
	if next.service, _, err = loadService(r.Config, next.settings); err != nil {
		next.release()
		return nil, err
	}
	if current := next.service.current.Load(); current != nil {
		next.relay = current.relay
	} else {
		next.relay = handler.New(next.service.Service, next.handlerOptions(opts, set.log))
	}
	return next, nil
}
