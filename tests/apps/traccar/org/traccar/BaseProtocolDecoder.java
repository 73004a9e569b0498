package org.traccar;

import io.netty.channel.Channel;
import java.net.SocketAddress;
import java.util.Date;
import org.traccar.database.CommandsManager;
import org.traccar.model.Position;
import org.traccar.session.DeviceSession;

/** A decoder base that knows one device and stores no commands for it. */
public abstract class BaseProtocolDecoder extends ExtendedObjectDecoder {
    static String device;
    private final Protocol protocol;

    public BaseProtocolDecoder(Protocol protocol) {
        this.protocol = protocol;
    }

    public String getProtocolName() {
        return protocol.getName();
    }

    protected double convertSpeed(double value, String defaultUnits) {
        return value;
    }

    public CommandsManager getCommandsManager() {
        return new CommandsManager();
    }

    public DeviceSession getDeviceSession(Channel channel, SocketAddress remote, String... names) {
        return device.equals(names[0]) ? new DeviceSession() : null;
    }

    protected void sendQueuedCommands(Channel channel, SocketAddress remote, long deviceId) {
    }

    public void getLastLocation(Position position, Date deviceTime) {
        position.setOutdated(true);
    }
}
