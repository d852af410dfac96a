// The server of the pm2 peer, written as pm2's manual asks for: it says when it is ready, and on SIGINT finishes what it has.
const { createServer } = require('node:http')

let count = 0
const server = createServer((_, response) => response.end(`${process.pid} ${++count}`))
server.keepAliveTimeout = 300_000
server.listen(Number(process.env.PORT), '127.0.0.1', () => process.send('ready'))
process.on('SIGINT', () => {
  server.close(() => process.exit(0))
})
