/** nginx: new workers with the new configuration, then the old ones finish what they have and close their idle connections. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { HttpCaller } from './http.ts'
import type { Peer } from './peer.ts'
import { listening, needDebian, run } from './run.ts'

const NGINX = '/usr/sbin/nginx'

export async function nginx(directory: string, port: number, connections: number): Promise<Peer> {
  needDebian(NGINX, 'nginx-light')
  const file = join(directory, 'nginx.conf')
  let version = 0
  const configure = async () =>
    await writeFile(
      file,
      `daemon off;
worker_processes 2;
pid ${directory}/nginx.pid;
error_log ${directory}/error.log;
events { worker_connections 256; }
http {
  access_log off;
  keepalive_requests 1000000;
  keepalive_timeout 300s;
  client_body_temp_path ${directory}/body;
  proxy_temp_path ${directory}/proxy;
  fastcgi_temp_path ${directory}/fastcgi;
  uwsgi_temp_path ${directory}/uwsgi;
  scgi_temp_path ${directory}/scgi;
  server { listen 127.0.0.1:${port}; location / { return 200 "version ${++version}"; } }
}
`,
    )
  await configure()
  const server = spawn(NGINX, ['-p', directory, '-c', file], { stdio: 'ignore' })
  const gone = once(server, 'exit')
  const stop = async () => {
    server.kill('SIGTERM')
    await gone
  }
  await listening(port).catch(async (error) => {
    await stop()
    throw error
  })
  const caller = new HttpCaller(port, connections)
  return {
    name: 'nginx -s reload',
    protocol: 'GET of a fixed answer, no state, HTTP/1.1',
    call: () => caller.call(),
    replace: async () => {
      await configure()
      await run(NGINX, ['-p', directory, '-c', file, '-s', 'reload'])
    },
    close: async () => {
      caller.close()
      await stop()
    },
  }
}
