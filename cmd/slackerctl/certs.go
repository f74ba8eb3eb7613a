package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/certs"
)

const (
	day     = 24 * time.Hour
	maxDays = 36500 // a hundred years; many more overflow a duration
)

// validity is the time of --days.
func validity(days int) (time.Duration, error) {
	if days < 1 || days > maxDays {
		return 0, block.Errorf(block.Invalid, "--days: want from 1 to %d days, got %d", maxDays, days)
	}
	return time.Duration(days) * day, nil
}

// certsJSON is what the certs commands answer.
type certsJSON struct {
	Certificate string    `json:"certificate"`
	Key         string    `json:"key"`
	Expires     time.Time `json:"expires"`
}

func (a *app) certs() *cobra.Command {
	return a.noun(&cobra.Command{
		Use:   "certs",
		Short: "Make certificates for TLS",
		Long: `certs makes a certificate authority and the certificates of servers and clients, in
a directory. Keys are written with mode 0600. ca.key signs certificates: keep it off
the servers. slackerd reads renewed files by itself.`,
		Example: `  slackerctl certs init --dir pki
  slackerctl certs server store --dir pki --host store.example.org --host 10.0.0.5
  slackerctl certs client worker-1 --dir pki`,
	}, a.certsInit(), a.certsIssue(true), a.certsIssue(false))
}

func (a *app) issued(i certs.Issued, err error) error {
	if err != nil {
		return err
	}
	return a.answer(certsJSON{i.CertFile, i.KeyFile, i.Expires}, func(w io.Writer) {
		_, _ = fmt.Fprintf(w, "%s and %s, valid until %s\n", i.CertFile, i.KeyFile, i.Expires.In(a.location).Format(time.DateOnly))
	})
}

func (a *app) certsInit() *cobra.Command {
	var dir string
	var days int
	cmd := &cobra.Command{
		Use: "init --dir DIR", Short: "Make a certificate authority", Args: wantArgs(0, 0), DisableFlagsInUseLine: true,
		Long:    `init makes DIR/ca.crt and DIR/ca.key. An authority that is there is left alone.`,
		Example: `  slackerctl certs init --dir pki`,
		RunE: func(*cobra.Command, []string) error {
			valid, err := validity(days)
			if err != nil {
				return err
			}
			return a.issued(certs.Init(dir, "slacker-authority", valid))
		},
	}
	cmd.Flags().StringVar(&dir, "dir", ".", "`DIR` of the authority")
	cmd.Flags().IntVar(&days, "days", 3650, "how many `DAYS` it is valid")
	return cmd
}

func (a *app) certsIssue(server bool) *cobra.Command {
	var r certs.Request
	var dir string
	var days int
	cmd := &cobra.Command{Args: wantArgs(1, 1), DisableFlagsInUseLine: true,
		RunE: func(_ *cobra.Command, args []string) error {
			valid, err := validity(days)
			if err != nil {
				return err
			}
			r.Name, r.Valid = args[0], valid
			if server && len(r.Hosts) == 0 {
				r.Hosts = args
			}
			return a.issued(certs.Issue(dir, r))
		}}
	flags := cmd.Flags()
	flags.StringVar(&dir, "dir", ".", "`DIR` of the authority")
	flags.IntVar(&days, "days", 365, "how many `DAYS` it is valid")
	flags.BoolVar(&r.Renew, "renew", false, "replace certificate and key that are there")
	if server {
		cmd.Use, cmd.Short = "server NAME [flags]", "Issue a server's certificate"
		cmd.Long = "server issues DIR/NAME.crt and DIR/NAME.key for the hosts by which clients reach\na server."
		cmd.Example = "  slackerctl certs server store --dir pki --host store.example.org --host 10.0.0.5\n  slackerctl certs server store --dir pki --renew"
		flags.StringArrayVar(&r.Hosts, "host", nil, "`HOST`: a DNS name or IP address (default: NAME); may be repeated")
		return cmd
	}
	cmd.Use, cmd.Short = "client NAME [flags]", "Issue a client's certificate"
	cmd.Long = "client issues DIR/NAME.crt and DIR/NAME.key. NAME is the identity of the client:\naccess rules name it as cn=NAME."
	cmd.Example = "  slackerctl certs client worker-1 --dir pki\n  slackerctl certs client worker-1 --dir pki --renew"
	flags.StringVar(&r.URI, "uri", "", "a second name, which access rules name as uri=`URI`")
	return cmd
}
