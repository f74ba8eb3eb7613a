package images

import (
	_ "embed"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Entry points, as the original images have them: they make a database once,
// and run the server in the foreground as a user of its own.
var (
	//go:embed files/postgres.sh
	postgresEntry string
	//go:embed files/mariadb.sh
	mariadbEntry string
	//go:embed files/redis.sh
	redisEntry string
	//go:embed files/rabbitmq.sh
	rabbitmqEntry string
	//go:embed files/httpd.sh
	httpdEntry string
	//go:embed files/jetty.sh
	jettyEntry string
)

// script is a program of an image that we wrote.
func script(name, content string) File {
	return File{Path: "/usr/local/bin/" + name, Content: content, Mode: 0o755}
}

// server is the configuration of an image whose entry point is a script.
func server(entry string, cmd ...string) v1.Config {
	return v1.Config{Env: []string{path, "LANG=C.UTF-8"}, Entrypoint: []string{"/usr/local/bin/" + entry}, Cmd: cmd}
}

// with adds variables to the environment of a configuration.
func with(c v1.Config, env ...string) v1.Config {
	c.Env = append(c.Env, env...)
	return c
}

func databases() []*Recipe {
	return []*Recipe{
		{
			Name: "mariadb", VersionOf: "mariadb-server",
			Top: bookworm.install("mariadb-server", "pwgen", "tzdata", "xz-utils", "zstd").then(`
				rm -rf /var/lib/mysql
				mkdir /var/lib/mysql
				chown mysql:mysql /var/lib/mysql
			`).files(script("docker-entrypoint.sh", mariadbEntry)),
			Config: server("docker-entrypoint.sh", "mariadbd"),
		},
		{
			Name: "postgres", VersionOf: "postgresql-15",
			Top: bookworm.install("postgresql", "postgresql-contrib", "xz-utils", "zstd").then(`
				rm -rf /var/lib/postgresql/15 /etc/postgresql/15 /etc/ssl/private/* /etc/ssl/certs/ssl-cert-snakeoil.pem
			`).files(script("docker-entrypoint.sh", postgresEntry)),
			Config: with(server("docker-entrypoint.sh", "postgres"), "PATH=/usr/lib/postgresql/15/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
		},
		{
			Name: "redis", VersionOf: "redis-server",
			Top: bookworm.install("redis-server").then("install -d -o redis -g redis /data").
				files(script("docker-entrypoint.sh", redisEntry)),
			Config: in("/data", server("docker-entrypoint.sh", "redis-server", "--protected-mode", "no")),
		},
	}
}

// in sets the working directory of a configuration.
func in(dir string, c v1.Config) v1.Config {
	c.WorkingDir = dir
	return c
}

func webServers() []*Recipe {
	return []*Recipe{
		{
			Name: "httpd", VersionOf: "apache2",
			Top: bookworm.install("apache2", "ca-certificates").then(`
				sed -i 's,^ErrorLog .*,ErrorLog /dev/stderr,; s,^LogLevel .*,LogLevel notice,' /etc/apache2/apache2.conf
				echo 'ServerName localhost' >/etc/apache2/conf-enabled/server-name.conf
				ln -sf /dev/stderr /var/log/apache2/error.log
				ln -sf /dev/stdout /var/log/apache2/access.log
			`).files(script("httpd-foreground", httpdEntry)),
			Config: v1.Config{Env: []string{path}, Cmd: []string{"httpd-foreground"}},
		},
		{
			Name: "jetty", VersionOf: "jetty9",
			Top:    withJRE.install("jetty9").files(script("docker-entrypoint.sh", jettyEntry)),
			Config: server("docker-entrypoint.sh"),
		},
		{
			Name: "nginx", VersionOf: "nginx",
			Top: bookworm.install("nginx", "libnginx-mod-http-image-filter", "libnginx-mod-http-xslt-filter", "ca-certificates").then(`
				ln -sf /dev/stderr /var/log/nginx/error.log
				ln -sf /dev/stdout /var/log/nginx/access.log
			`),
			Config: v1.Config{Env: []string{path}, Cmd: []string{"nginx", "-g", "daemon off;"}},
		},
		{
			Name: "tomcat", VersionOf: "tomcat10",
			Top: withJRE.install("tomcat10", "tomcat10-admin", "tomcat10-docs", "tomcat10-examples"),
			Config: in("/var/lib/tomcat10", v1.Config{
				Env: []string{path, "LANG=C.UTF-8", "CATALINA_HOME=/usr/share/tomcat10", "CATALINA_BASE=/var/lib/tomcat10", "CATALINA_TMPDIR=/tmp"},
				Cmd: []string{"/usr/share/tomcat10/bin/catalina.sh", "run"},
			}),
		},
	}
}
