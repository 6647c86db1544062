package command

import "github.com/async-relay/caddy-relay/module/api"

// upgrade prints what replaced the running process.
func (p *printer) upgrade(u api.Upgrade) {
	p.line("process %d has replaced process %d in %.2f s", u.NewPID, u.OldPID, u.Seconds)
	if u.TCP+u.UDP > 0 {
		p.line("the old process keeps %d TCP relays and %d UDP sessions until they end, at most for %s (shutdown_timeout)", u.TCP, u.UDP, u.Timeout)
	}
}
