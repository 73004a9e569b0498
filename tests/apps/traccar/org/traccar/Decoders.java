package org.traccar;

import com.fasterxml.jackson.databind.ObjectMapper;
import io.netty.bootstrap.ServerBootstrap;
import io.netty.channel.ChannelHandlerContext;
import io.netty.channel.ChannelInboundHandlerAdapter;
import io.netty.channel.ChannelInitializer;
import io.netty.channel.nio.NioEventLoopGroup;
import io.netty.channel.socket.SocketChannel;
import io.netty.channel.socket.nio.NioServerSocketChannel;
import io.netty.handler.codec.http.HttpObjectAggregator;
import io.netty.handler.codec.http.HttpRequestDecoder;
import io.netty.handler.codec.http.HttpResponseEncoder;
import java.io.FileWriter;
import java.io.Writer;
import java.util.LinkedHashMap;
import java.util.Map;
import org.traccar.config.Config;
import org.traccar.handler.network.NetworkMessageHandler;
import org.traccar.model.Position;
import org.traccar.protocol.OsmAndProtocolDecoder;
import org.traccar.protocol.OwnTracksProtocolDecoder;

/** PORT PROTOCOL DEVICE FILE: appends the decoder's output to FILE, one line of JSON each. */
public class Decoders {
    public static void main(String[] args) throws Exception {
        boolean osmand = args[1].equals("osmand");
        BaseProtocolDecoder.device = args[2];
        Writer stored = new FileWriter(args[3], true);
        ObjectMapper mapper = new ObjectMapper();
        NioEventLoopGroup group = new NioEventLoopGroup(1); // one thread, to keep the order
        new ServerBootstrap().group(group).channel(NioServerSocketChannel.class)
            .childHandler(new ChannelInitializer<SocketChannel>() {
                @Override
                protected void initChannel(SocketChannel channel) {
                    Protocol protocol = () -> args[1];
                    BaseProtocolDecoder decoder = osmand
                        ? new OsmAndProtocolDecoder(protocol) : new OwnTracksProtocolDecoder(protocol);
                    decoder.setConfig(new Config());
                    channel.pipeline().addLast(
                        new NetworkMessageHandler(),
                        new WrapperOutboundHandler(new HttpResponseEncoder()),
                        new WrapperInboundHandler(new HttpRequestDecoder()),
                        new WrapperInboundHandler(new HttpObjectAggregator(64 * 1024)),
                        decoder,
                        new Store(stored, mapper));
                }
            }).bind("127.0.0.1", Integer.parseInt(args[0])).sync();
        System.out.println("listening");
    }

    /** Writes each position; closes the connection on an error, like Traccar's last handler. */
    private static class Store extends ChannelInboundHandlerAdapter {
        private final Writer stored;
        private final ObjectMapper mapper;

        Store(Writer stored, ObjectMapper mapper) {
            this.stored = stored;
            this.mapper = mapper;
        }

        @Override
        public void channelRead(ChannelHandlerContext context, Object message) throws Exception {
            Position position = (Position) message;
            Map<String, Object> kept = new LinkedHashMap<>();
            kept.put("time", position.getFixTime().getTime());
            kept.put("lat", position.getLatitude());
            kept.put("lon", position.getLongitude());
            kept.put("alt", position.getAltitude());
            kept.put("knots", position.getSpeed());
            kept.put("course", position.getCourse());
            kept.put("accuracy", position.getAccuracy());
            kept.put("attributes", position.getAttributes());
            synchronized (stored) {
                stored.write(mapper.writeValueAsString(kept) + "\n");
                stored.flush();
            }
        }

        @Override
        public void exceptionCaught(ChannelHandlerContext context, Throwable cause) {
            cause.printStackTrace();
            context.close();
        }
    }
}
