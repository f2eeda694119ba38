"""MNIST with convolutions in a Sequential, a schedule and the accuracy per epoch (document 3, 4).

    python examples/seeds/document3_mnist.py --synthetic --epochs 2     # without the data
    python examples/seeds/document3_mnist.py                            # fetches MNIST into data/

Repaired: the scheduler steps after the epoch instead of before it (PyTorch warns of that order);
dropout between the dense layers drops single features; no dropout while testing.
"""

from __future__ import annotations

import argparse

import image_data

import allgrad as torch
from allgrad import nn
from allgrad.utils.data import DataLoader
from allgrad.vision import transforms

batch_size = 64  # mini-batch size
lr = 0.001  # learning rate
momentum = 0.9  # momentum factor of SGD
weight_decay = 5e-4  # weight decay coefficient
log_interval = 10  # steps between two lines


class Net(nn.Module):
    """A convolutional part and a dense part, each a Sequential."""

    def __init__(self) -> None:
        super(Net, self).__init__()  # noqa: UP008 - the document's spelling
        self.cnn = nn.Sequential(
            nn.Conv2d(1, 10, kernel_size=5),
            nn.MaxPool2d(kernel_size=2),
            nn.ReLU(),
            nn.Conv2d(10, 20, kernel_size=5),
            nn.Dropout2d(),
            nn.MaxPool2d(kernel_size=2),
            nn.ReLU(),
        )
        self.fc = nn.Sequential(nn.Linear(320, 50), nn.ReLU(), nn.Dropout(), nn.Linear(50, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.cnn(x)
        x = x.view(-1, 320)
        return self.fc(x)


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train, and return the last figures; `argv` stands for the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    image_data.add_options(parser, epochs=20)
    parser.add_argument("--lr", type=float, default=lr, help=f"learning rate ({lr})")
    options = parser.parse_args(argv)

    torch.manual_seed(options.seed)
    transform = transforms.Compose([transforms.ToTensor()])
    trainset = image_data.load("MNIST", True, transform, options)
    testset = image_data.load("MNIST", False, transform, options)
    trainloader = DataLoader(trainset, batch_size=batch_size, shuffle=True)
    testloader = DataLoader(testset, batch_size=batch_size, shuffle=False)

    net = Net()
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(
        net.parameters(), lr=options.lr, momentum=momentum, weight_decay=weight_decay
    )
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=10, gamma=0.1)
    if torch.cuda.is_available():
        net.cuda()

    for epoch in range(options.epochs):
        net.train()
        running_loss = 0.0
        for i, data in enumerate(trainloader, 0):
            inputs, labels = data
            if torch.cuda.is_available():
                inputs, labels = inputs.cuda(), labels.cuda()
            optimizer.zero_grad()
            outputs = net(inputs)
            loss = criterion(outputs, labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
            if i % log_interval == log_interval - 1:
                print("[%d, %5d] loss: %.3f" % (epoch + 1, i + 1, running_loss / log_interval))  # noqa: UP031
                last, running_loss = running_loss / log_interval, 0.0
        scheduler.step()

        net.eval()
        correct = 0
        total = 0
        with torch.no_grad():
            for data in testloader:
                images, labels = data
                if torch.cuda.is_available():
                    images, labels = images.cuda(), labels.cuda()
                outputs = net(images)
                _, predicted = torch.max(outputs.data, 1)
                total += labels.size(0)
                correct += (predicted == labels).sum().item()
        kind = "synthetic" if options.synthetic else "test"
        print(f"Accuracy of the network on {total} {kind} images: {100 * correct / total:.1f} %")
    print("Finished Training")
    return {"loss": last, "accuracy": correct / total}


if __name__ == "__main__":
    main()
