package apiserver

import (
	"context"

	"connectrpc.com/connect"

	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/block"
)

// UpgradeServer begins to replace the program.
func (s *Server) UpgradeServer(ctx context.Context, _ *connect.Request[slackerv1.UpgradeServerRequest]) (*connect.Response[slackerv1.UpgradeServerResponse], error) {
	if s.opts.Upgrader == nil {
		return refuse[slackerv1.UpgradeServerResponse](block.Errorf(block.Unsupported, "upgrade: this server cannot replace its program"))
	}
	count := s.opts.Upgrader.LastUpgrade().GetCount()
	installed, err := s.opts.Upgrader.Upgrade(ctx)
	return respond(&slackerv1.UpgradeServerResponse{Version: s.opts.Version, Installed: installed, Upgrades: count}, err)
}
