package main

import (
	"context"
	"strings"

	"github.com/slackerd/slacker/api"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/suggest"
)

// failed is the error of a call about target, a volume, a snapshot or nothing;
// where target is not there it names the nearest that is.
func (a *app) failed(ctx context.Context, err error, target string) error {
	err = api.FromConnect(err)
	if !block.Is(err, block.NotFound) || target == "" {
		return err
	}
	isSnapshot := strings.Contains(target, "@")
	names, listErr := a.names(ctx, !isSnapshot, isSnapshot)
	if listErr != nil {
		return err // the error at hand says more than that there is no advice
	}
	near := suggest.Nearest(target, names)
	if near == "" {
		return err
	}
	return &block.Error{Kind: block.NotFound, Text: err.Error() + "; did you mean " + near + "?", Err: err}
}
